"""Does toco work on a GPU, and how fast is it there? One command, at most 25 minutes on one H100 or H200.

    python -m bench.gpu --out DIR [--parts NAME ...]           on the GPU
    python -m bench.gpu --out DIR --device cpu --small         the same parts at tiny sizes, to test this command

Run it in the repository's folder. Each part is a process with its own time limit, so that a failure loses nothing
else. DIR/gpu.json, DIR/gpu.md and a log for each part are written as the parts end. Nothing is downloaded: networks
start from random weights.

The machine needs torch, timm, h5py, and no network. A part that misses another package names the wheel. To bring
wheels, run this on a machine with network, the same Python version and the same platform, and copy the folder:

    pip download --no-deps --dest wheels lightning-fabric lightning-utilities segmentation-models-pytorch ...
    pip install --no-index --no-deps --find-links wheels lightning-fabric lightning-utilities ...   (on the GPU machine)

pydensecrf2 has no wheel: build one with `pip wheel --no-deps pydensecrf2`, after installing Cython and setuptools.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# Seconds that each part may take; 25 minutes together. `precision` uses the network that `pipeline` trained.
LIMITS = {
    "golden": 120,
    "step": 180,
    "cams": 120,
    "crf": 150,
    "student": 100,
    "pipeline": 400,
    "precision": 120,
    "nccl": 70,
    "compile": 240,
}
QUESTIONS = {
    "golden": "Do the golden tests pass with tensors on the GPU?",
    "step": "How fast is a training step of train-cam (ViT-B, 448 pixels, batch 4), and how much memory does it use?",
    "cams": "How many CAMs a second does make-labels make?",
    "crf": "How fast is the dense CRF, and does it agree with pydensecrf?",
    "student": "How fast is a training step of the student?",
    "pipeline": "Do train-cam, make-labels (both CRF back ends), train-seg, predict and a resumed train-cam work?",
    "precision": "How far is bf16 from float32?",
    "nccl": "Does data-parallel training work with a process group of one (NCCL on a GPU)?",
    "compile": "What does --compile bring?",
}
SLOWER = 5  # times the limits with --small, which runs on a CPU beside other work
LAST_LINES = 15  # of the output of a part that failed
PACKAGES = ("torch", "timm", "h5py", "lightning-fabric", "segmentation-models-pytorch", "pydensecrf2", "pytest")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts; returns 0 if none failed and none ran out of time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results, logs and the drawn data set")
    parser.add_argument("--parts", nargs="+", choices=list(LIMITS), default=list(LIMITS), help="parts to run [all]")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to test this command without a GPU")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "device": options.device,
        "small": options.small,
        "parts": {},
    }
    for name in options.parts:
        print(f"{name} ...", flush=True)
        report["parts"][name] = result = run_part(name, options)
        write(options.out, report)
        print(f"{name}: {result['status']} after {result['seconds']:.0f} s", flush=True)
    print((options.out / "gpu.md").read_text(encoding="utf-8"))
    return int(any(part["status"] in ("failed", "timed out") for part in report["parts"].values()))


def run_part(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run one part in its own process group and return its figures, or the reason why there are none."""
    answer, log = options.out / f"{name}.json", options.out / f"{name}.log"
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "bench.gpu_parts", name, "--device", options.device, "--out", str(options.out)]
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command + ["--small"] * options.small,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parent.parent,
            start_new_session=True,
        )
        try:
            status = "failed" if process.wait(LIMITS[name] * (SLOWER if options.small else 1)) else "passed"
        except subprocess.TimeoutExpired:
            status = "timed out"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also the processes that the part has started
            process.wait()
    result: dict[str, Any] = {"status": status, "seconds": time.perf_counter() - began}
    if answer.exists():
        result.update(json.loads(answer.read_text(encoding="utf-8")))
    if result["status"] in ("failed", "timed out"):
        result["error"] = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return result


def write(folder: Path, report: Mapping[str, Any]) -> None:
    """Write the report as JSON and as Markdown."""
    (folder / "gpu.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    lines = ["# toco on a GPU", ""]
    about = {name: value for name, value in report.items() if name not in ("packages", "parts")}
    versions = {name: number or "missing" for name, number in report["packages"].items()}
    lines += [", ".join(f"{name} {value}" for name, value in {**about, **versions}.items()), ""]
    for name, part in report["parts"].items():
        lines += [f"## {name}: {part['status']} ({part['seconds']:.0f} s)", "", QUESTIONS[name], ""]
        if part.get("missing"):
            lines += [f"Missing wheel: {part['missing']}.", ""]
        for key, value in part.get("figures", {}).items():
            if isinstance(value, list):
                headings = list(dict.fromkeys(heading for row in value for heading in row))
                lines += [f"{key}:", "", "| " + " | ".join(headings) + " |", "| --- " * len(headings) + "|"]
                lines += ["| " + " | ".join(shown(row.get(heading)) for heading in headings) + " |" for row in value]
                lines += [""]
            else:
                lines += [f"- {key}: {shown(value)}"]
        lines += ["", *(f"    {line}" for line in part.get("error", ())), ""]
    (folder / "gpu.md").write_text("\n".join(lines), encoding="utf-8")


def shown(value: object) -> str:
    """Format one figure."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def version(package: str) -> str | None:
    """Return the installed version of a package, None if it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str:
    """Return the commit of the working tree, or 'unknown'."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
