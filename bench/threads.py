"""Does training lose time to OpenMP threads that spin while they wait for work, alone and beside a busy process?

    python -m bench.threads [--pairs 3] [--steps 40]

Trains the demo's CAM network and its student with two threads, each policy in turn, so that other work on the machine
affects them alike. Prints milliseconds per step, wall and CPU time, of each run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

POLICIES = {
    "spin": {"GOMP_SPINCOUNT": "300000"},  # what libgomp does by default
    "passive": {"OMP_WAIT_POLICY": "passive"},
}
STAGES = ("train-cam", "train-seg")
WARM_UP = 3  # steps that do not count


def prepare(folder: Path) -> None:
    """Draw a small data set and make the masks that the student learns from."""
    from data.drawing.sample import draw_sample
    from stages.demo import CAM, LABELS
    from stages.make_labels import make_labels
    from stages.runtime.monitor import SilentMonitor
    from stages.train_cam import train_cam

    draw_sample(folder / "data", images=40, validation=2, size=96)
    train_cam(folder / "data", folder / "run", replace(CAM, iterations=2, evaluate_images=1), SilentMonitor())
    make_labels(folder / "run", replace(LABELS, refine="none"), SilentMonitor())


def train(stage: str, folder: Path, steps: int) -> list[int]:
    """Train one stage in this process.

    Returns:
        Milliseconds per step: wall time and CPU time.
    """
    from stages.demo import CAM, SEG
    from stages.runtime.monitor import SilentMonitor
    from stages.train_cam import train_cam
    from stages.train_seg import train_seg

    times: list[tuple[float, float]] = []

    class Clock(SilentMonitor):
        def advance(self, steps: int = 1, **figures: float) -> None:
            times.append((time.monotonic(), time.process_time()))

    if stage == "train-cam":
        train_cam(folder / "data", folder / "timed", replace(CAM, iterations=WARM_UP + steps), Clock(), overwrite=True)
    else:
        train_seg(folder / "run", replace(SEG, iterations=WARM_UP + steps), Clock(), overwrite=True)
    first, last = times[WARM_UP - 1], times[WARM_UP + steps - 1]
    return [round(1000 * (end - begin) / steps) for begin, end in zip(first, last, strict=True)]


def main() -> None:
    """Run the comparison, or, in a child process, one of its runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)  # a stage and the folder of prepare()
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(train(options.worker[0], Path(options.worker[1]), options.steps)))
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for busy in (0, 1):
            processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
            for stage in STAGES:
                for policy, variables in [*POLICIES.items()] * options.pairs:
                    environment = {**os.environ, "OMP_NUM_THREADS": "2", **variables}
                    worker = ["--worker", stage, folder, "--steps", str(options.steps)]
                    print(f"busy {busy}, {stage}, {policy}: [wall, CPU] ms/step", end=" ", flush=True)
                    subprocess.run([sys.executable, "-m", "bench.threads", *worker], env=environment, check=True)
            for process in processes:
                process.kill()


if __name__ == "__main__":
    main()
