"""What do the recipes cost, and what do they bring? Minutes and mIoU of `toco run` with no other options.

    python -m bench.recipes DATA [DATA ...] --out DIR --weights FILE [--recipes quick balanced best] [--seeds 0 1 2]
        [--table FILE]

DATA are data sets with ground truth, which is used to measure only. The time is not limited, so that each recipe runs
as it is. Finished runs are kept in DIR, so that the command can be stopped and repeated. Writes DIR/recipes.json, and
the table with --table.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import toco_cli as toco
from data.atomic_write import atomic_write
from stages.run_folder.provenance import read_sessions
from stages.run_folder.run_config import PLAN, read_run_config

STAGES = ("cam", "labels", "seg")
NO_LIMIT = "100d"
Result = dict[str, Any]


def measure(options: argparse.Namespace) -> list[Result]:
    """Do the runs that are missing, and return all results of the folder."""
    path = options.out / "recipes.json"
    found: list[Result] = json.loads(path.read_text()) if path.is_file() else []
    for data in options.data:
        for recipe in options.recipes:
            for seed in options.seeds:
                key = {"data": data.name, "recipe": recipe, "seed": seed}
                if not any(key.items() <= one.items() for one in found):
                    run = options.out / f"{data.name}-{recipe}-{seed}"
                    found.append({**key, **result(data, run, recipe, seed, options.weights)})
                    with atomic_write(path) as temporary:
                        temporary.write_text(json.dumps(found, indent=1))
    return found


def result(data: Path, run: Path, recipe: str, seed: int, weights: str) -> Result:
    """Run everything; return minutes by stage, predicted minutes, and mIoU in %."""
    toco.run(data, run, recipe=recipe, time=NO_LIMIT, seed=seed, progress=True, train_cam={"weights": weights})
    minutes = {stage: sum(one.seconds for one in read_sessions(run / stage)) / 60 for stage in STAGES}
    plan = read_run_config(run / PLAN)
    columns = toco.evaluate(run).as_dict()["columns"]
    return {
        "minutes": {stage: round(value, 1) for stage, value in minutes.items()},
        "plan": dict(plan),
        "miou": {one["name"]: one["miou"] and round(100 * one["miou"], 1) for one in columns},
        "iou": {one["name"]: one["iou"] for one in columns},
    }


def table(results: Iterable[Result]) -> str:
    """Means and ranges over the seeds as a Markdown table."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for one in results:
        rows.setdefault((one["data"], one["recipe"]), []).append(one)
    names = list(dict.fromkeys(name for found in rows.values() for one in found for name in one["miou"]))
    lines = ["| data | recipe | seeds | minutes: CAM, masks, student | " + " | ".join(names) + " |"]
    lines.append("| --- " * (4 + len(names)) + "|")
    for (data, recipe), found in rows.items():
        minutes = ", ".join(f"{statistics.mean(one['minutes'][stage] for one in found):.0f}" for stage in STAGES)
        figures = " | ".join(_spread([one["miou"][name] for one in found if one["miou"].get(name)]) for name in names)
        lines.append(f"| {data} | {recipe} | {len(found)} | {minutes} | {figures} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return "".join(f"{one:.1f}" for one in values)
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Read the options, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", required=True, help="weights of the planned backbone, a .safetensors file")
    parser.add_argument("--recipes", nargs="+", default=["quick", "balanced", "best"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    text = table(measure(options))
    print(text)
    if options.table:
        options.table.write_text(text)


if __name__ == "__main__":
    main()
