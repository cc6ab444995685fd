import logging
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from data.errors import SettingsError
from stages.config import TrainCam, TrainSeg
from stages.networks.cam_model import new_cam_model
from stages.networks.hub import failing_at_once, hub_problem
from stages.networks.student import new_student


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a hub to which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{found.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    return address


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths that are asked for at a hub that answers and has no files."""
    paths: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            paths.append(self.path)
            self.send_response(200 if self.path == "/" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield paths
    server.shutdown()
    server.server_close()


def test_hub_problem__says_why(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_problem().startswith(f"{closed} cannot be reached: ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_problem() == "HF_HUB_OFFLINE is set"


def test_hub_problem__any_answer_is_an_answer(requests: list[str]) -> None:
    assert hub_problem() == ""


def test_failing_at_once__puts_everything_back(closed: str) -> None:
    level = logging.getLogger("huggingface_hub").level
    with pytest.raises(ValueError, match="offline True"), failing_at_once():
        raise ValueError(f"offline {constants.HF_HUB_OFFLINE}")
    assert constants.HF_HUB_OFFLINE is False
    assert logging.getLogger("huggingface_hub").level == level


def test_new_student__a_hub_out_of_reach_is_one_line_at_once(
    closed: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(seconds: float) -> None:
        raise AssertionError(f"a retry after {seconds} s")

    monkeypatch.setattr(time, "sleep", fail)
    with pytest.raises(SettingsError) as caught:
        new_student(TrainSeg(encoder="resnet18", image_size=32), 2)
    message = str(caught.value)
    assert message.startswith(
        f"the weights of --encoder 'resnet18' could not be downloaded ({closed} cannot be reached"
    )
    assert "download model.safetensors of 'smp-hub/resnet18.imagenet'" in message
    assert "--weights FILE" in message
    assert capfd.readouterr() == ("", "")


def test_new_cam_model__offline_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SettingsError) as caught:
        new_cam_model(TrainCam(backbone="vit_tiny_patch16_224"), 2)
    message = str(caught.value)
    assert "could not be downloaded (HF_HUB_OFFLINE is set): download model.safetensors of" in message
    assert "'timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k'" in message
    assert "--weights FILE" in message
    assert capfd.readouterr() == ("", "")


def test_new_student__asks_the_hub_for_the_weights(requests: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match=r"the weights of --encoder 'resnet18' could not be downloaded \("):
        new_student(TrainSeg(encoder="resnet18", image_size=32), 2)
    assert any(path.startswith("/smp-hub/resnet18.imagenet/resolve/") for path in requests)
    assert capfd.readouterr() == ("", "")
