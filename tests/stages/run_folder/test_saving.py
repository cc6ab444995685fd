import errno
import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from data.errors import ArtifactError
from stages.run_folder.saving import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
    write_json,
)
from stages.training.metrics_log import MetricsLog


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def assert_one_line(error: pytest.ExceptionInfo[BaseException], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("config.json", lambda path: write_json(path, {"a": 1})),
        ("model.safetensors", lambda path: save_weights(path, {"a": torch.ones(3)})),
        ("checkpoint.pt", lambda path: save_checkpoint(path, {"a": torch.ones(3)})),
        ("metrics.jsonl", lambda path: MetricsLog(path, start=0)),
    ],
)
def test_products__survive_a_full_disk(
    tmp_path: Path, full_disk: None, name: str, write: Callable[[Path], object]
) -> None:
    (tmp_path / name).write_text("earlier")
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / name)
    assert (tmp_path / name).read_text() == "earlier"
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("write", [save_weights, save_checkpoint])
@pytest.mark.parametrize("state", [{"a": torch.rand(20_000)}, {str(number): torch.rand(500) for number in range(50)}])
def test_products__disk_full_while_writing(
    small_disk: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
    write: Callable[[Path, dict[str, torch.Tensor]], None],
    state: dict[str, torch.Tensor],
) -> None:
    """Torch itself says 'unexpected pos' and safetensors something of its own."""
    path = tmp_path / "product"
    path.write_text("earlier")
    with small_disk(), pytest.raises(OSError, match="File too large"):
        write(path, state)
    assert path.read_text() == "earlier"
    assert names(tmp_path) == {"product"}


def test_save_weights__disk_full_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.ones(3)})

    def fail(state: object, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="No space left on device"):
        save_weights(path, {"a": torch.zeros(3)})
    assert load_weights(path)["a"].tolist() == [1, 1, 1]
    assert names(tmp_path) == {"model.safetensors"}


def damages(whole: bytes) -> Iterator[bytes]:
    """A file cut off at several places, with other bytes in it, and other things altogether."""
    yield from (whole[: len(whole) * part // 16] for part in range(16))
    yield whole[:-1]
    source = random.Random(0)
    for _ in range(60):
        place = source.randrange(len(whole))
        yield whole[:place] + source.randbytes(8) + whole[place + 8 :]
    yield from (source.randbytes(size) for size in (1, 7, 8, 9, 100, 1000) for _ in range(5))
    yield from (b"PK\x03\x04", b"\x80\x02.", b"text\n" * 20, b"\x00" * 200, pickle.dumps({"a": 1}))


def refusals(load: Callable[[Path], object], path: Path) -> list[str]:
    """What is said of the file when it is damaged; errors of other kinds than ArtifactError get through."""
    said = []
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        try:
            load(path)
        except ArtifactError as error:
            said.append(str(error))
    return said


def test_load_weights__missing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file .*: check the path"):
        load_weights(tmp_path / "nosuch.safetensors")


def test_load_weights__damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(1, dtype=torch.int64)})
    assert load_weights(path)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    said = refusals(load_weights, path)  # other bytes inside a tensor are not noticed
    assert len(said) > 50
    assert all(str(path) in text and "make or copy it again" in text and "\n" not in text for text in said)


def test_save_checkpoint__round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    value = {"iteration": 3, "module": {"w": torch.ones(2)}, "optimizer": {"lr": 0.1, "betas": (0.9, 0.999)}}
    save_checkpoint(path, value)
    back = load_checkpoint(path)
    assert torch.equal(back["module"].pop("w"), torch.ones(2))
    assert back == {"iteration": 3, "module": {}, "optimizer": {"lr": 0.1, "betas": (0.9, 0.999)}}


def test_load_checkpoint__damaged(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"iteration": 3, "module": {f"w{number}": torch.ones(20) for number in range(5)}})
    said = refusals(load_checkpoint, path)
    assert len(said) > 50
    assert all(str(path) in text and "start again with --overwrite" in text and "\n" not in text for text in said)
    assert not any("weights_only" in text for text in said)


class Evil:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return eval, ("__import__('builtins').__dict__.setdefault('_toco_was_here', True)",)


@pytest.mark.parametrize("legacy", [False, True])
def test_load_checkpoint__runs_no_code(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"iteration": Evil()}, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path)
    assert_one_line(caught, str(path))
    import builtins

    assert not hasattr(builtins, "_toco_was_here")
