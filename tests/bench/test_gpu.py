"""bench/gpu.py runs all parts on a CPU at tiny sizes, and keeps what it has when a part fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import gpu

ROOT = Path(__file__).parent.parent.parent


def test_main__keeps_the_other_parts_when_one_fails_hangs_or_lacks_a_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Small programs stand in for the parts: the first words of the command line decide.
    programs = {
        "golden": "raise SystemExit('line 1\\nno such device')",
        "step": "import time; time.sleep(60)",
        "cams": 'open(sys.argv[1] + \'/cams.json\', \'w\').write(\'{"status": "skipped", "missing": "timm"}\')',
        "crf": 'open(sys.argv[1] + \'/crf.json\', \'w\').write(\'{"figures": {"ms": 12.5, "rows": [{"a": 1}]}}\')',
    }

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, command: list[str], **options: object) -> None:
            program = f"import sys; {programs[command[3]]}"
            super().__init__([sys.executable, "-c", program, str(tmp_path)], **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setitem(gpu.LIMITS, "step", 1)
    monkeypatch.setattr(gpu, "commit", lambda: "abc")
    assert gpu.main(["--out", str(tmp_path), "--parts", *programs]) == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "golden": "failed",
        "step": "timed out",
        "cams": "skipped",
        "crf": "passed",
    }
    assert parts["golden"]["error"] == ["line 1", "no such device"]
    assert parts["cams"]["missing"] == "timm"
    assert parts["crf"]["figures"]["ms"] == 12.5
    markdown = (tmp_path / "gpu.md").read_text()
    for line in ("Missing wheel: timm.", "- ms: 12.5", "| a |\n| --- |\n| 1 |", "    no such device"):
        assert line in markdown
    assert "crf: passed" in capsys.readouterr().out


def test_limits__fit_into_25_minutes() -> None:
    assert sum(gpu.LIMITS.values()) <= 25 * 60
    assert gpu.LIMITS.keys() == gpu.QUESTIONS.keys()


@pytest.mark.slow
def test_main__all_parts_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert gpu.main(["--out", str(tmp_path), "--device", "cpu", "--small"]) == 0
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(gpu.LIMITS, "passed")
    assert "passed" in parts["golden"]["figures"]["tests"]
    pipeline = parts["pipeline"]["figures"]
    assert pipeline["largest difference of a weight after resuming"] == 0
    assert {row["product"] for row in pipeline["scores"]} >= {"CAM", "student"}
    first = parts["precision"]["figures"]["losses"][0]
    assert first["loss, bf16"] == pytest.approx(first["loss, float32"], rel=0.01)
    assert first["loss, bf16"] != first["loss, float32"]
    assert parts["nccl"]["figures"]["losses alone"] == parts["nccl"]["figures"]["losses in the group"]
