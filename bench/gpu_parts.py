"""The parts of bench/gpu.py, each run in its own process.

Each part returns its figures by name: numbers, texts, or tables (lists of rows). Imports are late, so that a missing
package stops only the parts that need it.
"""

import argparse
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
WHEELS = {"PIL": "pillow", "pydensecrf": "pydensecrf2", "yaml": "pyyaml"}  # where wheel and module differ
GOALS = {"ms a step": 40, "CAMs a second": 150, "ms an image of the CRF": 20}  # for one H100 or H200
TINY_VIT = ["--backbone", "vit_tiny_patch16_224"]
# The network of `toco demo`, as options of `toco train-cam`.
DEMO_VIT = [
    word for one in ("patch_size=8", "embed_dim=128", "depth=6", "num_heads=2") for word in ("--backbone-option", one)
]

Figures = dict[str, Any]


def main() -> None:
    """Run the part that is named on the command line and write its figures to OUT/PART.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.out = options.out.resolve()
    try:
        answer: dict[str, Any] = {"figures": PARTS[options.part](options)}
    except ModuleNotFoundError as error:
        module = (error.name or str(error)).partition(".")[0]
        answer = {"status": "skipped", "missing": WHEELS.get(module, module.replace("_", "-"))}
    (options.out / f"{options.part}.json").write_text(json.dumps(answer), encoding="utf-8")


def golden(options: argparse.Namespace) -> Figures:
    """Run the golden tests with all tensors on the device; the confusion matrix counts on the CPU and is left out."""
    import jaxtyping  # noqa: F401  # say which wheel is missing, before pytest fails
    import pytest  # noqa: F401

    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=--import-mode=importlib", "-W", "default"]
    command += ["-p", "no:cacheprovider", "-k", "golden and not confusion", "tests/stages/toco"]
    environment = {**os.environ, "TOCO_DEVICE": options.device}
    tests = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    print(tests.stdout, tests.stderr)
    tests.check_returncode()
    return {"tests": tests.stdout.strip().splitlines()[-1]}


def step(options: argparse.Namespace) -> Figures:
    """Measure the training step, with and without gradient checkpointing, and before the segmentation branch."""
    from bench import step_speed

    size = [*TINY_VIT, "--image-size", "32", "--batch", "1", "--repeats", "1"] if options.small else ["--repeats", "30"]
    common = ["--device", options.device, *size]
    rows = step_speed.main([*common, "--beside", "grad-checkpointing"])
    early = step_speed.main([*common, "--early"])
    return {
        "steps": [*rows, {**early[0], "variant": "toco, before the segmentation branch"}],
        **against("ms a step", rows[0]["ms a step"]),
    }


def cams(options: argparse.Namespace) -> Figures:
    """Measure CAMs a second by batch size."""
    from bench import cam_speed

    size = [*TINY_VIT, "--image-size", "32", "--batch", "1", "--repeats", "1"] if options.small else []
    rows = cam_speed.main(["--device", options.device, *size])
    return {"batch sizes": rows, **against("CAMs a second", max(row["images a second"] for row in rows))}


def crf(options: argparse.Namespace) -> Figures:
    """Measure the CRF. Figures for pydensecrf are there if it is installed."""
    from bench import crf_speed

    size = ["--images", "1", "--labels", "2", "--repeats", "1"] if options.small else ["--labels", "2", "3", "5", "21"]
    rows = crf_speed.main(["--device", options.device, *size])
    ours = [row for row in rows if row["variant"] == "toco" and row["parameters"] == "pseudo labels"]
    figures: Figures = {"variants": rows, **against("ms an image of the CRF", 1000 * ours[0]["s an image"])}
    if not any(row["variant"].startswith("pydensecrf") for row in rows):
        figures["not compared"] = "pydensecrf is missing: bring a wheel of pydensecrf2"
    return figures


def student(options: argparse.Namespace) -> Figures:
    """Measure the training step of the student."""
    from bench import student_speed

    small = ["--encoder", "resnet18", "--image-size", "32", "--batch", "2", "--repeats", "1"]
    return {"step": student_speed.main(["--device", options.device, *(small if options.small else [])])}


def against(name: str, value: float) -> Figures:
    """Return a figure with its goal."""
    return {name: value, f"goal, {name}": GOALS[name]}


def pipeline(options: argparse.Namespace) -> Figures:
    """Run the stages on drawn pictures by the command line; kill train-cam once, resume it, compare the weights."""
    import h5py
    import lightning_fabric  # noqa: F401  # toco would report a missing package in its own words
    import numpy as np
    import segmentation_models_pytorch  # noqa: F401
    from safetensors.numpy import load_file

    from data.drawing.sample import draw_sample

    images, steps, batch, side = (6, 12, 2, 32) if options.small else (400, 260, 16, 96)
    data, run, resumed = (options.out / name for name in ("data", "run", "resumed"))
    remove(data, run, resumed)
    draw_sample(data, images=images, validation=max(2, images // 4), size=max(32, side))
    device = ["--device", options.device]
    train = [*TINY_VIT, *DEMO_VIT, "--weights", "none", "--image-size", str(side), "--iterations", str(steps)]
    train += ["--batch-size", str(batch), "--learning-rate", "1e-3", "--log-every", "1", "--evaluate-every", "0"]
    train += ["--checkpoint-every", str(steps // 3), *device]
    figures: Figures = {"train-cam, s": toco("train-cam", data, "--out", run, *train)}
    masks: dict[str, dict[str, Any]] = {}
    for backend in ("torch", "pydensecrf"):
        if backend == "pydensecrf" and not installed("pydensecrf"):
            figures["make-labels, pydensecrf"] = "not run: bring a wheel of pydensecrf2"
            continue
        again = ["--overwrite"] if masks else []
        seconds = toco("make-labels", run, "--crf", "--crf-backend", backend, *device, *again)
        figures[f"make-labels, {backend}, s"] = seconds
        with h5py.File(run / "labels" / "labels.h5") as file:
            masks[backend] = {name: mask[()] for name, mask in file["masks"].items()}
    if len(masks) == 2:
        pairs = [(masks["torch"][name], masks["pydensecrf"][name]) for name in masks["torch"]]
        figures["equal pixels of both back ends, %"] = 100 * float(np.mean([np.mean(one == two) for one, two in pairs]))
    seg = ["--encoder", "resnet18", "--weights", "none", "--image-size", "32" if options.small else "64"]
    seg += ["--iterations", str(steps), "--batch-size", str(batch), "--evaluate-every", "0"]
    figures["train-seg, s"] = toco("train-seg", run, *seg, *device)
    remove(options.out / "predictions")
    figures["predict, s"] = toco("predict", run, data / "images", "--out", options.out / "predictions", *device)
    evaluation = json.loads(toco_output("evaluate", run, "--json", *device))
    figures["scores"] = [
        {"product": column["name"].replace("\n", " "), "split": column["split"], "mIoU, %": 100 * column["miou"]}
        for column in evaluation["columns"]
    ]
    figures["killed after step"] = kill_after_checkpoint(data, resumed, train, steps)
    figures["resumed train-cam, s"] = toco("train-cam", data, "--out", resumed, "--resume", *train)
    one, two = (load_file(folder / "cam" / "model.safetensors") for folder in (run, resumed))
    figures["largest difference of a weight after resuming"] = max(
        float(np.abs(one[name].astype(np.float64) - two[name]).max()) for name in one
    )
    return figures


PROGRAM = "import sys; from toco_cli.main import main; sys.exit(main())"


def toco(*words: object) -> float:
    """Run a toco command in this process and return its seconds."""
    began = time.perf_counter()
    toco_output(*words)
    return time.perf_counter() - began


def toco_output(*words: object) -> str:
    """Run a toco command in this process and return its standard output."""
    from toco_cli.main import main as run_command

    print("toco", *words, flush=True)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = run_command([*map(str, words)])
    if code:
        raise RuntimeError(f"toco {words[0]} ended with code {code}; its message is above")
    return output.getvalue()


def kill_after_checkpoint(data: Path, run: Path, train: list[str], steps: int) -> int:
    """Start train-cam, kill it after its first checkpoint, and return the last logged step."""
    command = [sys.executable, "-c", PROGRAM, "train-cam", str(data), "--out", str(run), *train]
    metrics = run / "cam" / "metrics.jsonl"
    with subprocess.Popen(command, cwd=ROOT) as process:
        while process.poll() is None:
            if metrics.exists() and (count := len(metrics.read_bytes().splitlines())) > steps // 3:
                process.send_signal(signal.SIGKILL)
                return count
            time.sleep(0.01)
    raise RuntimeError(f"train-cam ended with code {process.returncode} before it could be killed")


def precision(options: argparse.Namespace) -> Figures:
    """Compare bf16 with float32: losses of the same steps, and labels of the network that `pipeline` trained."""
    import copy

    import torch

    from bench.step_speed import CamStep
    from bench.workload import CLASSES, SIZES, drawn_batch
    from stages.config import TrainCam
    from stages.networks.cam_model import new_cam_model
    from stages.runtime.fabric import make_fabric
    from stages.toco.step import Phase

    sizes = {"backbone": TINY_VIT[1], "image_size": 96, "batch_size": 2} if options.small else SIZES["gpu"]
    config, fabric = TrainCam(weights="none", **sizes), make_fabric(options.device)
    torch.manual_seed(0)
    model, _ = new_cam_model(config, CLASSES)
    batch, phase = drawn_batch(config, 0), Phase(contrast=True, segment=True)
    steps = {name: CamStep(copy.deepcopy(model), config, fabric, batch, phase, name) for name in ("toco", "float32")}
    rows = []
    for number in range(1, 4 if options.small else 31):
        with bf16(options.device):
            half = steps["toco"]()
        full = steps["float32"]()
        row: dict[str, Any] = {"step": number, "loss, bf16": float(half.total), "loss, float32": float(full.total)}
        # By loss: where a score crosses a threshold, a contrast loss jumps, and that is not rounding.
        for name in ("classification", "ptc", "ctc", "segmentation"):
            one, other = float(getattr(half, name)), float(getattr(full, name))
            row[f"{name}, difference"] = abs(one - other)
        rows.append(row)
    return {"losses": rows[:3] + rows[3:][-1:], **labels_in_both_precisions(options)}


def labels_in_both_precisions(options: argparse.Namespace) -> Figures:
    """Score the labels of the pipeline's CAM network, made in bf16 and in float32."""
    import torch

    from data.readers import open_dataset, read_mask
    from stages.networks.cam_model import load_cam_model
    from stages.networks.inference import class_label_matrix, load_image, square_cams
    from stages.run_folder.artifacts import open_stage
    from stages.toco.cam import label_one_threshold, present_classes
    from stages.toco.metrics import Confusion

    if not (options.out / "run" / "cam" / "model.safetensors").exists():
        return {"labels": "not compared: part 'pipeline' left no network"}
    dataset, stage = open_dataset(options.out / "data"), open_stage(options.out / "run", "cam")
    model = load_cam_model(stage).to(options.device)
    samples, count = dataset.split()[:100], len(dataset.class_names)
    side = int(stage.settings["image_size"])
    labels: dict[str, list[Any]] = {}
    for name, context in (("bf16", bf16), ("float32", lambda device: contextlib.nullcontext())):
        labels[name] = []
        for sample in samples:
            image = load_image(sample, side)
            present = present_classes(class_label_matrix([sample], count).to(options.device))
            with context(options.device):
                maps = square_cams(model, image.squashed[None].to(options.device), present, (1.0, 0.5, 1.5)).final
            full = torch.nn.functional.interpolate(maps.float(), size=image.original.shape[-2:], mode="bilinear")
            labels[name].append(present.class_numbers(label_one_threshold(full, 0.3))[0].cpu())
    figures: Figures = {}
    for name, predicted in labels.items():
        confusion = Confusion(count + 1)
        for sample, label in zip(samples, predicted, strict=True):
            truth = read_mask(sample, (label.shape[1], label.shape[0]), count)
            confusion.add(label, torch.from_numpy(truth))
        figures[f"mIoU of CAM labels at 0.3, {name}, %"] = 100 * confusion.scores().miou
    same = [(one == two).double().mean() for one, two in zip(labels["bf16"], labels["float32"], strict=True)]
    return {**figures, "equal labels, %": 100 * float(torch.stack(same).mean())}


def bf16(device: str) -> contextlib.AbstractContextManager[None]:
    """Autocast to bf16."""
    import torch

    return torch.autocast(device, torch.bfloat16)


def nccl(options: argparse.Namespace) -> Figures:
    """Train some steps in a process group of one, and compare the losses with those without a process group."""
    import copy

    import torch
    import torch.distributed
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    from bench.step_speed import CamStep
    from bench.workload import CLASSES, SIZES, drawn_batch
    from stages.config import TrainCam
    from stages.networks.cam_model import new_cam_model
    from stages.runtime.fabric import make_fabric
    from stages.toco.step import Phase

    sizes = {"backbone": TINY_VIT[1], "image_size": 32, "batch_size": 1} if options.small else SIZES["gpu"]
    config, alone = TrainCam(weights="none", **sizes), make_fabric(options.device)
    group = Fabric(
        accelerator=options.device,
        devices=1,
        strategy=DDPStrategy(find_unused_parameters=True),
        precision="bf16-mixed" if options.device == "cuda" else "32-true",
        plugins=[LightningEnvironment()],
    )
    group.launch()
    torch.manual_seed(0)
    model, _ = new_cam_model(config, CLASSES)
    batch, phase = drawn_batch(config, 0), Phase(contrast=True, segment=True)
    losses = []
    for fabric in (alone, group):
        one = CamStep(copy.deepcopy(model), config, fabric, batch, phase)
        losses.append([float(one().total) for _ in range(3)])
    reduced = group.all_reduce(torch.ones(1, device=group.device), reduce_op="sum")
    assert isinstance(reduced, torch.Tensor)
    figures = {
        "back end": torch.distributed.get_backend(),
        "sum over the group": reduced.item(),
        "losses alone": ", ".join(f"{loss:.6f}" for loss in losses[0]),
        "losses in the group": ", ".join(f"{loss:.6f}" for loss in losses[1]),
    }
    torch.distributed.destroy_process_group()
    return figures


def compiled(options: argparse.Namespace) -> Figures:
    """Measure the training step with and without --compile."""
    from bench import step_speed

    size = ["--repeats", "30"]
    if options.small:
        size = [*TINY_VIT, "--backbone-option", "depth=3", "--image-size", "32", "--batch", "1", "--repeats", "1"]
    rows = step_speed.main(["--device", options.device, *size, "--beside", "compile"])
    return {"steps": rows, "speed over eager": rows[0]["ms a step"] / rows[1]["ms a step"]}


def installed(module: str) -> bool:
    """Return whether a module can be imported."""
    import importlib.util

    return importlib.util.find_spec(module) is not None


def remove(*folders: Path) -> None:
    """Delete folders of an earlier run of this command."""
    import shutil

    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


PARTS: Mapping[str, Callable[[argparse.Namespace], Figures]] = {
    "golden": golden,
    "step": step,
    "cams": cams,
    "crf": crf,
    "student": student,
    "pipeline": pipeline,
    "precision": precision,
    "nccl": nccl,
    "compile": compiled,
}

if __name__ == "__main__":
    main()
