"""How many CAMs a second does `toco make-labels` make, by batch size?

    uv run python -m bench.cam_speed [--size cpu | gpu] [--batch N ...]

Random weights and drawn pictures. Input are square images; output are class scores at 500 x 375 in float16. Batch
sizes are measured in alternation on the same images; figures are medians.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor

import bench.timing
from bench.timing import Parts, Rows, Variant, add_options, count_operations, print_parts, print_table
from bench.workload import CLASSES, add_network_options, chosen_config, drawn_batch
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.networks.inference import resize_maps, square_cams
from stages.runtime.fabric import make_fabric
from stages.toco.cam import present_classes
from stages.toco.model import ToCo

ORIGINAL = (375, 500)  # height and width of most VOC images


def main(arguments: Sequence[str] | None = None) -> Rows:
    """Measure, print, and return the table of the batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    add_options(parser, repeats=5)
    parser.add_argument("--batch", type=int, nargs="+", help="images at a time [1 2 4; on a GPU 1 8 16 32]")
    options = parser.parse_args(arguments)
    fabric = make_fabric(options.device)
    device = fabric.device
    torch.set_num_threads(options.threads or torch.get_num_threads())
    config = chosen_config(options, device)
    batches = options.batch or ([1, 8, 16, 32] if device.type == "cuda" else [1, 2, 4])
    count = max(batches)
    torch.manual_seed(options.seed)
    model, _ = new_cam_model(config, CLASSES)
    fabric.to_device(model.eval())
    drawn = drawn_batch(replace(config, batch_size=count), options.seed)
    print(f"{bench.timing.describe(device)}, seed {options.seed}")
    print(f"{config.backbone}, {config.image_size} pixels, scales {config.scales} with flips, {count} images\n")
    makers = {f"{batch} at a time": CamMaker(model, config, fabric, batch) for batch in batches}
    variants = [
        Variant(name, partial(maker, drawn.image, drawn.class_labels), maker.parts) for name, maker in makers.items()
    ]
    measured = bench.timing.alternate(variants, device, repeats=options.repeats)
    peak = bench.timing.measured_peak(device)
    counted = count_operations(variants[0].run)
    rows = [
        {
            "variant": name,
            "images a second": 1000 * count / figures.milliseconds,
            "TFLOP an image": counted / count / 1e12,
            "floor, %": 100 * counted / peak / 1e9 / figures.milliseconds,
            "peak memory, GB": figures.peak_bytes / 1e9,
        }
        for name, figures in measured.items()
    ]
    print(f"{peak:.3g} TFLOP/s in a large matrix product\n")
    print_table(rows)
    print_parts(measured)
    return rows


class CamMaker:
    """Makes the class scores of images, a batch at a time, as `toco make-labels` does."""

    def __init__(self, model: ToCo, config: TrainCam, fabric: Fabric, batch: int) -> None:
        self.model, self.scales, self.fabric, self.batch = model, config.scales, fabric, batch
        self.parts = Parts(fabric.device)

    def __call__(self, images: Tensor, class_labels: Tensor) -> list[Tensor]:
        """Return the scores of each image's classes on the CPU, (k, 375, 500) in float16."""
        results: list[Tensor] = []
        part, device = self.parts.part, self.fabric.device
        batches = zip(torch.split(images, self.batch), torch.split(class_labels, self.batch), strict=True)
        for batch, batch_labels in batches:
            with part("data to device"):
                squares, labels = batch.to(device), batch_labels.to(device)
            with part("CAM"), self.fabric.autocast():
                maps = square_cams(self.model, squares, present_classes(labels), self.scales).final
            counts = batch_labels.sum(dim=1).int().tolist()
            with part("resize"):
                full = [resize_maps(one[:k], ORIGINAL).half() for one, k in zip(maps, counts, strict=True)]
            with part("data from device"):
                results += [one.cpu() for one in full]
        return results


if __name__ == "__main__":
    main()
