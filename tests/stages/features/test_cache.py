import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import Sample
from data.errors import ArtifactError, DataError
from data.images import read_image
from data.readers import open_dataset
from stages.config import MakeLabels
from stages.features import cache as feature_cache
from stages.features.cache import FeatureCache, check_encoder, compute_features, stored_features
from stages.features.encoder import load_encoder
from stages.features.spec import FeatureSpec, feature_spec
from stages.networks.frozen_encoder import fitted_image, fitted_sides
from stages.run_folder.artifacts import open_stage
from stages.runtime.fabric import make_fabric
from stages.runtime.monitor import SilentMonitor

CONFIG = MakeLabels(device="cpu", workers=1)


@pytest.fixture
def spec(cam_run: Path) -> FeatureSpec:
    return feature_spec(CONFIG, open_stage(cam_run, "cam"))


def compute(run: Path, spec: FeatureSpec, samples: Any, monitor: Any = None, **changes: Any) -> FeatureCache:
    config = replace(CONFIG, **changes)
    return compute_features(run, spec, samples, config, make_fabric("cpu"), monitor or SilentMonitor())


def samples_of(data: Path) -> list[Sample]:
    return list(open_dataset(data).split())


def test_compute_features__are_the_tokens_of_the_encoder(cam_run: Path, spec: FeatureSpec, pictures: Path) -> None:
    samples = samples_of(pictures)
    cache = compute(cam_run, spec, samples)
    encoder = load_encoder(spec, cam_run)
    for sample in samples:
        pixels = fitted_image(read_image(sample.image), spec.long_side, 8)
        expected = encoder(pixels[None])[0]
        found = cache.read(sample.id)
        assert found.dtype == np.float16
        assert max(found.shape[1:]) == 32
        torch.testing.assert_close(torch.from_numpy(found).float(), expected, rtol=2e-3, atol=2e-3)


def test_compute_features__several_blocks(cam_run: Path, spec: FeatureSpec, pictures: Path) -> None:
    sample = samples_of(pictures)[0]
    both = compute(cam_run, replace(spec, blocks=(0, -1)), [sample]).read(sample.id)
    last = compute(cam_run, spec, [sample]).read(sample.id)
    assert len(both) == 2 * len(last)
    np.testing.assert_array_equal(both[len(last) :], last)


def test_check_encoder__keeps_features_of_another_spec(cam_run: Path, spec: FeatureSpec, pictures: Path) -> None:
    """Which features are needed may be decided later."""
    sample = samples_of(pictures)[0]
    compute(cam_run, spec, [sample]).close()
    check_encoder(cam_run, replace(spec, blocks=(0,)), [sample])
    assert sample.id in FeatureCache(cam_run, spec)


def test_check_encoder__loads_the_network_only_if_features_are_missing(
    cam_run: Path, spec: FeatureSpec, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = samples_of(pictures)[:2]
    compute(cam_run, spec, [first]).close()
    loaded = []
    monkeypatch.setattr(feature_cache, "load_encoder", lambda spec, run: loaded.append(spec))
    check_encoder(cam_run, spec, [first])
    assert loaded == []
    other = replace(spec, blocks=(0,))
    check_encoder(cam_run, spec, [first, second])
    check_encoder(cam_run, other, [first])
    assert loaded == [spec, other]


def test_compute_features__without_blocks_those_of_the_first_block_of_the_second_half(
    cam_run: Path, spec: FeatureSpec, pictures: Path
) -> None:
    """Features of a version that took another block are not used."""
    sample = samples_of(pictures)[0]
    depth = len(load_encoder(spec, cam_run).backbone.block_dims)
    expected = compute(cam_run, replace(spec, blocks=(depth // 2,)), [sample]).read(sample.id)
    middle = replace(spec, blocks=())
    np.testing.assert_array_equal(compute(cam_run, middle, [sample]).read(sample.id), expected)
    stored = stored_features(cam_run)
    assert stored is not None
    assert not stored.missing([sample])
    config = cam_run / "features" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "blocks": []}))
    assert stored_features(cam_run) is None
    assert FeatureCache(cam_run, middle).missing([sample])


def test_compute_features__only_what_is_missing(
    cam_run: Path, spec: FeatureSpec, pictures: Path, listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "IMAGES_PER_FILE", 2)
    samples = samples_of(pictures)
    with pytest.raises(KeyboardInterrupt):
        compute(cam_run, spec, samples, listener(stop=("advance", 5)))
    kept = len(samples) - len(FeatureCache(cam_run, spec).missing(samples))
    assert kept >= 2
    monitor = listener()
    whole = compute(cam_run, spec, samples, monitor)
    assert monitor.calls.count("advance") == len(samples) - kept
    assert not whole.missing(samples)
    again = listener()
    compute(cam_run, spec, samples, again)
    assert again.calls == []
    other = replace(spec, long_side=128)
    assert len(FeatureCache(cam_run, other).missing(samples)) == len(samples)


def test_compute_features__a_changed_image(
    cam_run: Path, spec: FeatureSpec, draw_pictures: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "own")
    samples = samples_of(data)
    before = compute(cam_run, spec, samples).read(samples[0].id)
    samples[0].image.write_bytes(samples[1].image.read_bytes())
    os.utime(samples[0].image, ns=(1, 1))
    cache = FeatureCache(cam_run, spec)
    assert [one.id for one in cache.missing(samples)] == [samples[0].id]
    assert not np.array_equal(compute(cam_run, spec, samples).read(samples[0].id), before)


def test_compute_features__bad_image(
    cam_run: Path, spec: FeatureSpec, draw_pictures: Callable[[Path], Path], tmp_path: Path, listener: Any
) -> None:
    samples = samples_of(draw_pictures(tmp_path / "own"))
    samples[3].image.write_bytes(samples[3].image.read_bytes()[:300])
    with pytest.raises(DataError, match=samples[3].image.name):
        compute(cam_run, spec, samples)
    monitor = listener()
    cache = compute(cam_run, spec, samples, monitor, skip_bad=True)
    assert samples[3].id not in cache
    assert samples[4].id in cache
    assert len(monitor.warnings) == 1


def test_FeatureCache__damaged_file(cam_run: Path, spec: FeatureSpec, pictures: Path) -> None:
    cache = compute(cam_run, spec, samples_of(pictures))
    pickle.loads(pickle.dumps(cache)).read("a")  # as a worker of a data loader receives it
    (shard,) = (cam_run / "features").glob("*.h5")
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match=r"is not a complete file of features \(.*\): delete it"):
        FeatureCache(cam_run, spec)


@pytest.mark.parametrize(
    ("size", "expected"), [((213, 320), (294, 448)), ((320, 320), (448, 448)), ((5, 4000), (14, 448))]
)
def test_fitted_sides__whole_patches(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted_sides(size, 448.0, 14) == expected
