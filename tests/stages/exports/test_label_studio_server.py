"""Masks go to a real Label Studio server and come back. Needs `label-studio` on the PATH, or its path in LABEL_STUDIO.

Not a dependency, because it brings 150 packages: install it into an environment of its own.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stages.corrections.correction_file import CorrectionFile
from stages.export import export
from stages.import_masks import import_masks
from stages.runtime.monitor import SilentMonitor

PROGRAM = os.environ.get("LABEL_STUDIO") or shutil.which("label-studio")
RUNNING = os.environ.get("LABEL_STUDIO_URL")  # of a server whose user has this token
TOKEN = "0123456789abcdef0123456789abcdef01234567"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (PROGRAM or RUNNING), reason="label-studio is not installed")]


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    """Calls the API of a server: (path) gets, (path, value) posts JSON."""
    if RUNNING:
        yield partial(request, RUNNING)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    assert PROGRAM is not None
    words = [PROGRAM, "start", "--no-browser", "--port", str(port), "--username", "a@b.co", "--password", "secret-1"]
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "COLLECT_ANALYTICS": "false",
    }
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(
            [*words, "--user-token", TOKEN], env={**os.environ, **settings}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        for _ in range(1200):  # the first start makes a database
            try:
                request(f"http://127.0.0.1:{port}", "/api/projects")
                break
            except OSError:
                assert server.poll() is None, (folder / "log.txt").read_text()[-2000:]
                time.sleep(1)
        yield partial(request, f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(60)


def request(server: str, path: str, value: Any = None) -> Any:
    body = None if value is None else json.dumps(value).encode()
    headers = {"Authorization": f"Token {TOKEN}", "Content-Type": "application/json"}
    asked = urllib.request.Request(f"{server}{path}", body, headers)
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)


def test_masks__go_to_label_studio_and_come_back(
    make_export_run: Callable[..., Any], call: Callable[..., Any], tmp_path: Path
) -> None:
    masks = {name: np.zeros((60, 80), np.uint8) for name in ("a", "deep/b", "c d")}
    for number, mask in enumerate(masks.values(), start=1):
        mask[5 * number : 50, 10 : 20 * number] = number
    run = make_export_run(masks)
    tasks, config = export(run.run, tmp_path / "tasks", SilentMonitor(), format="labelstudio")
    project = call("/api/projects", {"title": "toco", "label_config": config.read_text(encoding="utf-8")})["id"]
    call(f"/api/projects/{project}/import", json.loads(tasks.read_text(encoding="utf-8")))
    stored = call(f"/api/tasks?project={project}&fields=all")["tasks"]
    assert len(stored) == 3
    for task in stored[:2]:  # the third one is left for later
        (prediction,) = task["predictions"]
        call(f"/api/tasks/{task['id']}/annotations", {"result": prediction["result"], "was_cancelled": False})
    file = tmp_path / "export.json"
    file.write_text(json.dumps(call(f"/api/projects/{project}/export?exportType=JSON&download_all_tasks=true")))
    done = import_masks(run.run, file, SilentMonitor(), tool="labelstudio", allow_new_labels=True)
    assert (done.masks, done.left_out) == (2, 0)
    corrections = CorrectionFile(run.run, run.class_names)
    for image_id in corrections.classes:
        np.testing.assert_array_equal(corrections.mask(image_id).read(), masks[image_id])
    assert corrections.provenance(next(iter(corrections.classes))).annotator
