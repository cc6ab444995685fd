"""Which backbones work, and what do they cost?

    python -m bench.backbones [--size 96] [--only NAME ...] [--onnx]

For each backbone, with random weights and drawn pictures, in a process of its own: build, training steps (batch 2,
both contrasts and the segmentation branch), multi-scale CAMs, and the ONNX file of a student with its frozen encoder.
"""

import argparse
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch

import bench.timing
from bench.timing import Rows, print_table
from bench.workload import CLASSES, drawn_batch
from data.errors import reason
from stages.config import TrainCam
from stages.exports.onnx import as_onnx
from stages.networks.cam_model import new_cam_model
from stages.networks.feature_network import FeatureHead, FeatureNetwork
from stages.networks.frozen_encoder import FrozenEncoder
from stages.networks.inference import square_cams
from stages.networks.student import Student
from stages.toco.backbone import Backbone
from stages.toco.cam import present_classes
from stages.toco.step import Phase, TrainingStep
from stages.train_cam import step_settings
from stages.training.loop import new_optimizer

BACKBONES = (
    "deit_tiny_patch16_224", "vit_small_patch14_dinov2", "deit3_small_patch16_224", "eva02_tiny_patch14_224",
    "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "convnext_atto", "convnextv2_atto", "pvt_v2_b0", "resnet18",
    "tf_efficientnet_lite0",
)  # fmt: skip
STEPS = 2  # timed, after one for warming up


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Measure, print, and return the table of the backbones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels, rounded to whole patches")
    parser.add_argument("--only", nargs="+", default=BACKBONES, help="timm names")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onnx", action="store_true", help="also export a student, which takes longer than the rest")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{bench.timing.describe(torch.device('cpu'))}, images of about {options.size} pixels, batch 2\n")
    context, rows = multiprocessing.get_context("fork"), []
    for name in options.only:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_measure, args=(name, options.size, options.onnx, theirs))
        child.start()
        theirs.close()
        try:
            row: dict[str, Any] = ours.recv()
        except EOFError:
            row = {"backbone": name, "works": "the process was killed"}
        child.join()
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
    print_table(rows)
    return rows


def _measure(name: str, size: int, onnx: bool, connection: Any) -> None:
    row: dict[str, Any] = {"backbone": name}
    try:
        row.update(_figures(name, size, onnx))
    except Exception as error:  # a row of the table, whatever it is
        row["works"] = reason(error)
    connection.send(row)


def _figures(name: str, size: int, onnx: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    patch = 14 if "patch14" in name else 16
    config = TrainCam(backbone=name, weights="none", image_size=round(size / patch) * patch, batch_size=2)
    model, _ = new_cam_model(config, CLASSES)
    backbone, batch = model.backbone, drawn_batch(config, 0)
    step = TrainingStep(model, step_settings(config, backbone.patch_size)).train()
    optimizer = new_optimizer(step, backbone, config)
    seconds = []
    for _ in range(1 + STEPS):
        began = time.perf_counter()
        losses = step(batch, Phase(contrast=True, segment=True), [torch.Generator().manual_seed(i) for i in range(2)])
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    memory = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9  # before the export, which needs more
    cams = square_cams(model.eval(), batch.image, present_classes(batch.class_labels), config.scales)
    tokens = backbone(torch.zeros(1, 3, config.image_size, config.image_size)).final.shape[-2:]
    return {
        "million weights": sum(one.numel() for one in backbone.parameters()) / 1e6,
        "tokens": f"{tokens[0]} x {tokens[1]}",
        "class token": "own" if backbone.has_class_token else "pooled",
        "step, s": min(seconds[1:]),
        "peak memory, GB": memory,
        "finite loss": bool(losses.total.isfinite()),
        "CAM": "yes" if cams.final.isfinite().all() and cams.final.amax() > 0 else "no",
        **({"ONNX": _exported(backbone, config.image_size)} if onnx else {}),
    }


def _exported(backbone: Backbone, side: int) -> str:
    encoder = FrozenEncoder(backbone, (-1,))
    student = Student(
        FeatureNetwork(encoder, FeatureHead("linear", encoder.width, CLASSES + 1)),
        long_side=side,
        stride=encoder.patch_size,
    )
    try:
        as_onnx(student.eval())
    except Exception as error:  # the exporter raises many kinds
        return f"no: {reason(error)[:60]}"
    return "yes"


if __name__ == "__main__":
    main()
