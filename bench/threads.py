"""Does training lose time to OpenMP threads that spin while they wait for work, alone and beside a busy process?

    python -m bench.threads [PAIRS] [STEPS]

Trains the demo's CAM network with two threads, each policy in turn, so that other work on the machine affects them
alike. Prints milliseconds per step, wall and CPU time, of each run.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POLICIES = {
    "spin": {"GOMP_SPINCOUNT": "300000"},  # what libgomp does by default
    "passive": {"OMP_WAIT_POLICY": "passive"},  # what toco sets
}
WARM_UP = 3  # steps that do not count


def train(steps: int) -> None:
    """Train in this process; print the milliseconds per step, wall and CPU."""
    from dataclasses import replace

    from data.drawing.sample import draw_sample
    from stages.demo import CAM
    from stages.runtime.monitor import SilentMonitor
    from stages.train_cam import train_cam

    times: list[tuple[float, float]] = []

    class Clock(SilentMonitor):
        def advance(self, steps: int = 1, **figures: float) -> None:
            times.append((time.monotonic(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        draw_sample(Path(folder) / "data", images=40, validation=2, size=96)
        train_cam(Path(folder) / "data", Path(folder) / "run", replace(CAM, iterations=WARM_UP + steps), Clock())
    first, last = times[WARM_UP - 1], times[WARM_UP + steps - 1]
    print(json.dumps([round(1000 * (end - begin) / steps) for begin, end in zip(first, last, strict=True)]))


if __name__ == "__main__":
    pairs, steps = map(int, (sys.argv[1:] + ["5", "40"][len(sys.argv) - 1 :])[:2])
    if os.environ.get("TOCO_BENCH_WORKER"):
        train(steps)
        sys.exit()
    for busy in (0, 1):
        processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        for policy, variables in [*POLICIES.items()] * pairs:
            environment = {**os.environ, "OMP_NUM_THREADS": "2", "TOCO_BENCH_WORKER": "1", **variables}
            run = [sys.executable, "-m", "bench.threads", str(pairs), str(steps)]
            print(f"busy {busy}, {policy}: [wall, CPU] ms/step", end=" ", flush=True)
            subprocess.run(run, env=environment, check=True)
        for process in processes:
            process.kill()
