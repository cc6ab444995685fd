import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from data.errors import ArtifactError, DataError, UserError
from stages.config import MakeLabels, Run, TrainCam, TrainSeg
from stages.labels.store import LabelFile
from stages.run import run
from stages.runtime.monitor import SilentMonitor

PRODUCTS = ("cam/model.safetensors", "labels/cams.h5", "labels/labels.h5", "seg/model.safetensors")
LABELS = MakeLabels(relabel="none", refine="crf", device="cpu", workers=1)


@pytest.fixture(autouse=True)
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The charts of a report take half the time of a tiny run; `whole_run` has a real report."""

    def write(run: Path, *arguments: object, **options: object) -> Path:
        (run / "report.html").touch()
        return run / "report.html"

    monkeypatch.setattr("stages.report.report", write)


@pytest.fixture
def own_run(whole_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole_run, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in PRODUCTS}


def test_run__leaves_all_products_and_a_config_that_says_how(whole_run: Path) -> None:
    assert all((whole_run / name).is_file() for name in PRODUCTS)
    assert (whole_run / "report.html").is_file()
    config = tomlkit.parse((whole_run / "config.toml").read_text()).unwrap()
    assert config["train-cam"]["backbone-option"][0] == "patch_size=8"
    assert config["make-labels"]["refine"] == "crf"
    assert config["train-seg"]["iterations"] == 2
    assert {"command", "torch", "processor", "data_fingerprint", "began"} <= config["made-with"].keys()


def test_run__what_is_finished_is_not_done_again(
    own_run: Path,
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    listener: Callable[[], Any],
) -> None:
    before = {name: (own_run / name).stat().st_mtime_ns for name in PRODUCTS}
    heard = listener()
    run(pictures, own_run, Run(), heard, cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert {name: (own_run / name).stat().st_mtime_ns for name in PRODUCTS} == before
    notes = "\n".join(heard.notes)
    assert re.findall(r"(\d/4 [a-z-]+): .* is finished already", notes) == [
        "1/4 train-cam",
        "2/4 make-labels",
        "3/4 train-seg",
    ]


def test_run__overwrite_starts_again_with_a_stage(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    before = contents(own_run)
    seg = seg_settings(iterations=3)
    run(pictures, own_run, Run(overwrite="train-seg"), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg)
    changed = {name for name, content in contents(own_run).items() if content != before[name]}
    assert changed == {"seg/model.safetensors"}


def test_run__again_after_masks_were_corrected(
    own_run: Path,
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    correct: Callable[..., object],
    listener: Callable[[], Any],
) -> None:
    before = contents(own_run)
    mask = np.zeros((64, 48), np.uint8)
    mask[:9] = 1
    correct(own_run, {"a": mask})
    heard = listener()
    run(pictures, own_run, Run(), heard, cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert "masks drawn by people have changed: make-labels and train-seg start again" in heard.notes
    changed = {name for name, content in contents(own_run).items() if content != before[name]}
    assert changed == {"labels/labels.h5", "seg/model.safetensors"}
    np.testing.assert_array_equal(LabelFile(own_run / "labels/labels.h5", "masks").read("a"), mask)
    heard = listener()
    run(pictures, own_run, Run(), heard, cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert sum("is finished already" in note for note in heard.notes) == 3


def test_run__other_settings_are_refused_by_their_whole_names(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    config = (own_run / "config.toml").read_bytes()
    with pytest.raises(ArtifactError) as caught:
        run(
            pictures,
            own_run,
            Run(),
            SilentMonitor(),
            cam=cam_settings(ptc_weight=0.0),
            labels=LABELS,
            seg=seg_settings(),
        )
    assert "started with --train-cam.ptc-weight 0.2 and cannot be resumed with 0.0" in str(caught.value)
    assert "--overwrite train-cam" in str(caught.value)
    assert (own_run / "config.toml").read_bytes() == config


def test_run__may_go_on_with_other_workers(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(workers=1), labels=LABELS, seg=seg_settings())


@pytest.mark.parametrize(
    "part",
    [
        "making labels",
        *(pytest.param(one, marks=pytest.mark.slow) for one in ("training the CAM network", "training the student")),
    ],
)
def test_run__stopped_anywhere_it_ends_as_if_undisturbed(
    part: str,
    whole_run: Path,
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    tmp_path: Path,
) -> None:
    class Impatient(SilentMonitor):
        task = ""

        def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
            self.task = title

        def advance(self, steps: int = 1, **figures: float) -> None:
            if part in self.task:
                raise KeyboardInterrupt

    def again(monitor: SilentMonitor) -> None:
        run(pictures, tmp_path / "run", Run(), monitor, cam=cam_settings(), labels=LABELS, seg=seg_settings())

    with pytest.raises(KeyboardInterrupt):
        again(Impatient())
    assert (tmp_path / "run/config.toml").is_file()
    again(SilentMonitor())
    assert contents(tmp_path / "run") == contents(whole_run)


def test_run__an_overwrite_that_was_stopped_is_gone_on_with(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg],
    listener: Callable[..., Any],
) -> None:  # fmt: skip
    before = contents(own_run)
    cam, seg = cam_settings(seed=1), seg_settings()
    with pytest.raises(KeyboardInterrupt):
        run(pictures, own_run, Run(overwrite="train-cam"), listener(("advance", 2)), cam=cam, labels=LABELS, seg=seg)
    run(pictures, own_run, Run(), SilentMonitor(), cam=cam, labels=LABELS, seg=seg)
    assert all(content != before[name] for name, content in contents(own_run).items())


def test_run__looks_for_the_student_s_weights_before_anything_is_trained(
    pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg], tmp_path: Path
) -> None:
    seg = seg_settings(weights="gone.safetensors")
    with pytest.raises(Exception, match=r"gone\.safetensors"):
        run(pictures, tmp_path / "run", Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg)
    assert not (tmp_path / "run" / "cam").exists()


def test_run__tries_the_student_s_cache_before_anything_is_trained(
    pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    seg = seg_settings(cache=str(tmp_path / "file"))
    with pytest.raises(DataError, match="images cannot be cached in"):
        run(pictures, tmp_path / "run", Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg)
    assert not (tmp_path / "run" / "cam").exists()


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            "labels",
            {"background_threshold": 0.0},
            "--make-labels.low-threshold 0 (default for --make-labels.background-threshold 0) must be below "
            "--make-labels.high-threshold 0 (default for --make-labels.background-threshold 0)",
        ),
        (
            "labels",
            {"low_threshold": 0.8},
            "--make-labels.low-threshold 0.8 must be below --make-labels.high-threshold 0.7 (default)",
        ),
        ("labels", {"split": "nosuch"}, "has no split 'nosuch': choose one of 'train', 'val' (--make-labels.split)"),
        ("cam", {"split": "nosuch"}, "has no split 'nosuch': choose one of 'train', 'val' (--train-cam.split)"),
        ("cam", {"weights": "/gone.st"}, "there is no file /gone.st: check the path (--train-cam.weights)"),
        ("seg", {"weights": "/gone.st"}, "there is no file /gone.st: check the path (--train-seg.weights)"),
        ("seg", {"val_split": "validation"}, "choose one of 'train', 'val' (--train-seg.val-split)"),
        ("seg", {"split": "nosuch"}, "choose one of 'train', 'val' (--train-seg.split)"),
        (
            "seg",
            {"confidence_weighting": True},
            "--train-seg.confidence-weighting needs --make-labels.confidence: give both",
        ),
        ("seg", {"encoder": "resnet17"}, "--train-seg.encoder 'resnet17' is unknown"),
    ],
)
def test_run__reports_mistakes_of_all_stages_before_anything_is_trained(
    stage: str,
    changes: dict[str, Any],
    message: str,
    pictures: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    tmp_path: Path,
) -> None:
    settings: dict[str, Any] = {"cam": cam_settings(), "labels": LABELS, "seg": seg_settings()}
    settings[stage] = replace(settings[stage], **changes)
    with pytest.raises(UserError) as caught:
        run(pictures, tmp_path / "run", Run(device="cpu"), SilentMonitor(), **settings)
    assert message in str(caught.value)
    assert not (tmp_path / "run" / "cam").exists()


def test_run__names_the_options_of_a_stage_that_fails_later(
    pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg], tmp_path: Path
) -> None:
    cam = cam_settings(image_size=36)
    with pytest.raises(UserError, match=r"^--train-cam\.image-size 36 is not a multiple of the patch size 8"):
        run(pictures, tmp_path / "run", Run(), SilentMonitor(), cam=cam, labels=LABELS, seg=seg_settings())


def test_run__refuses_another_data_set_at_once(
    draw_pictures: Callable[[Path], Path],
    own_run: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    tmp_path: Path,
) -> None:
    data = draw_pictures(tmp_path / "data")
    table = (data / "labels.csv").read_text()
    (data / "labels.csv").write_text(table.replace("a.jpg,red,", "a.jpg,blue,"))
    with pytest.raises(ArtifactError, match=rf"^{data} has other images or labels than .*, from which {own_run}/cam"):
        run(data, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())


def test_run__stages_have_the_devices_of_the_run(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    cam = cam_settings(devices=2)
    with pytest.raises(
        ValueError, match=r"--train-cam.devices 2: all stages of 'toco run' use the same --devices \(1\)"
    ):
        run(pictures, own_run.parent / "new", Run(), SilentMonitor(), cam=cam, labels=LABELS, seg=seg_settings())
    assert not (own_run.parent / "new").exists()
    config = json.loads((own_run / "cam/config.json").read_text())
    config["settings"]["devices"] = 2  # as if 'toco train-cam --devices 2' had been run
    (own_run / "cam/config.json").write_text(json.dumps(config))
    run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())


def by_torchrun(*words: str) -> list[subprocess.CompletedProcess[str]]:
    """Run the command line by torchrun on two machines, which are both this one."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nnodes", "2", "--nproc-per-node", "1"]
    rendezvous = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    toco = [sys.executable, "-c", "import sys, child_processes; child_processes.call_toco(*sys.argv[1:])"]
    path = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in ("", "tests/processes"))
    machines = [
        subprocess.Popen(
            [*torchrun, *rendezvous, "--node-rank", rank, *toco, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            text=True,
        )
        for rank in "01"
    ]
    texts = [machine.communicate(timeout=300) for machine in machines]
    return [
        subprocess.CompletedProcess(words, machine.returncode, *text)
        for machine, text in zip(machines, texts, strict=True)
    ]


@pytest.mark.slow  # each stage is tested with two processes, too
@pytest.mark.parametrize("torchrun", [False, True], ids=["forked", "torchrun"])
def test_run__two_machines_make_what_one_does(
    whole_run: Path, tmp_path: Path, child_processes: Any, torchrun: bool
) -> None:
    """Processes that torchrun starts on two machines; or forked ones that are numbered as torchrun does, for speed."""
    words = ["run", "--config", str(whole_run / "config.toml"), "--out", str(tmp_path / "run"), "--nodes", "2"]
    start = by_torchrun if torchrun else partial(child_processes.toco, nodes=2)
    ended = start(*words, "--quiet", "--json")
    assert [machine.returncode for machine in ended] == [0, 0], ended
    assert json.loads(ended[0].stdout)["report"] == str(tmp_path / "run" / "report.html")
    assert ended[1].stdout == ""  # rank 0 reports for all
    assert not [machine for machine in ended if "find_unused_parameters" in machine.stderr]  # a warning of torch

    lines = [(folder / "cam/metrics.jsonl").read_text().splitlines() for folder in (whole_run, tmp_path / "run")]
    for one, other in zip(*lines, strict=True):
        assert json.loads(other) == pytest.approx(json.loads(one), rel=1e-5, abs=1e-5)
    masks = [stored_masks(folder / "labels/labels.h5") for folder in (whole_run, tmp_path / "run")]
    assert masks[0].keys() == masks[1].keys()
    equal = [masks[0][name] == masks[1][name] for name in masks[0]]
    assert np.concatenate([one.ravel() for one in equal]).mean() > 0.999


def stored_masks(path: Path) -> dict[str, NDArray[np.uint8]]:
    labels = LabelFile(path, "masks")
    return {name: labels.read(name) for name in labels.ids}


def test_run__leaving_out_what_was_given_is_another_setting(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    config = json.loads((own_run / "cam/config.json").read_text())
    config["settings"]["long_side"] = 40
    (own_run / "cam/config.json").write_text(json.dumps(config))
    before = (own_run / "config.toml").read_bytes()
    with pytest.raises(ArtifactError, match=r"--train-cam\.long-side 40 and cannot be resumed with its default"):
        run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert (own_run / "config.toml").read_bytes() == before


def test_run__a_stage_whose_source_was_replaced_is_to_be_made_again(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    config = json.loads((own_run / "labels/config.json").read_text())
    (own_run / "labels/config.json").write_text(json.dumps({**config, "made_from": "0" * 64}))
    with pytest.raises(ArtifactError, match="start that stage again: --overwrite make-labels"):
        run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())


def test_run__weights_are_found_from_anywhere(
    pictures: Path,
    whole_run: Path,
    cam_settings: Callable[..., TrainCam],
    seg_settings: Callable[..., TrainSeg],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = load_file(whole_run / "cam/model.safetensors")
    vit = {name.removeprefix("backbone.vit."): value for name, value in state.items() if "backbone.vit." in name}
    save_file({**vit, "pos_embed": state["backbone.positions"]}, tmp_path / "vit.safetensors")
    monkeypatch.chdir(tmp_path)

    def go(weights: str) -> None:
        cam = cam_settings(weights=weights, iterations=1)
        run(pictures, tmp_path / "run", Run(), SilentMonitor(), cam=cam, labels=LABELS, seg=seg_settings())

    go("vit.safetensors")
    kept = tomlkit.parse((tmp_path / "run/config.toml").read_text()).unwrap()["train-cam"]["weights"]
    assert kept == str(tmp_path / "vit.safetensors")
    go(kept)  # as 'toco run --config RUN/config.toml' does


def test_run__what_counts_for_all_stages_is_written_once(
    pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    config = Run(seed=3, skip_bad=True, device="cpu", cache="cache")
    cam, labels = cam_settings(seed=3, skip_bad=True, cache="cache"), replace(LABELS, skip_bad=True)
    seg = seg_settings(seed=4, skip_bad=True, cache="another")
    run(pictures, tmp_path / "run", config, SilentMonitor(), cam=cam, labels=labels, seg=seg)
    kept = tomlkit.parse((tmp_path / "run/config.toml").read_text()).unwrap()
    assert (kept["seed"], kept["skip-bad"], kept["device"]) == (3, True, "cpu")
    assert not {"seed", "skip-bad", "device", "cache"} & kept["train-cam"].keys()
    assert kept["train-seg"]["seed"] == 4
    assert (kept["cache"], kept["train-seg"]["cache"]) == (str(tmp_path / "cache"), str(tmp_path / "another"))


def test_run__remembers_how_it_was_begun(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    text = (own_run / "config.toml").read_text()
    (own_run / "config.toml").write_text(re.sub('command = ".*"', 'command = "the first"', text))
    run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())
    assert tomlkit.parse((own_run / "config.toml").read_text()).unwrap()["made-with"]["command"] == "the first"


def test_run__a_damaged_config_is_said(
    own_run: Path, pictures: Path, cam_settings: Callable[..., TrainCam], seg_settings: Callable[..., TrainSeg]
) -> None:
    (own_run / "config.toml").write_text("[train-cam\n")
    with pytest.raises(ArtifactError, match=r"config\.toml is damaged"):
        run(pictures, own_run, Run(), SilentMonitor(), cam=cam_settings(), labels=LABELS, seg=seg_settings())
