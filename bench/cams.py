"""How many CAMs a second does `toco make-labels` make, by images at a time, and against one image and pass at a time?

    uv run python -m bench.cams [--size cpu | gpu] [--batch N ...]

Random weights and drawn pictures; square pictures in, class scores at 500 x 375 in float16 out. The ways take turns on
the same images, each batch with the classes of its images; medians. Their maps are compared first, in float32.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor

from bench.timing import (
    Parts,
    Way,
    count_operations,
    describe,
    exact,
    measured_peak,
    print_parts,
    print_table,
    take_turns,
)
from bench.workload import CLASSES, add_network_options, chosen_config, drawn_batch
from stages.config import TrainCam
from stages.networks.cam_model import new_cam_model
from stages.networks.inference import resize_maps, square_cams
from stages.runtime.fabric import make_fabric
from stages.toco.cam import Cams, keep_present, normalise, present_classes, sum_scales
from stages.toco.model import ToCo

ORIGINAL = (375, 500)  # height and width of VOC's images
TOLERANCE = 1e-3  # absolute, of maps between 0 and 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(arguments)
    fabric = make_fabric(options.device)
    torch.set_num_threads(options.threads or torch.get_num_threads())
    on_gpu = fabric.device.type == "cuda"
    config = chosen_config(options, fabric.device)
    batches = options.batch or ([1, 8, 16, 32] if on_gpu else [1, 2, 4])
    count = options.images or max(batches)
    torch.manual_seed(options.seed)
    model, _ = new_cam_model(config, CLASSES)
    fabric.to_device(model.eval())
    drawn = drawn_batch(replace(config, batch_size=count), options.seed)
    print(f"{describe(fabric.device)}, {'bf16' if on_gpu else 'float32'}, seed {options.seed}")
    print(f"{config.backbone}, {config.image_size} pixels, scales {config.scales} with mirror images, {count} images\n")
    makers = {"one by one": CamMaker(model, config, fabric, batch=1, one_pass_at_a_time=True)}
    makers.update({f"{batch} at a time": CamMaker(model, config, fabric, batch=batch) for batch in batches})
    expected = makers["one by one"](drawn.image, drawn.class_labels, exact)
    for name, maker in makers.items():
        difference = max(
            (one - other).abs().max().item()
            for one, other in zip(maker(drawn.image, drawn.class_labels, exact), expected, strict=True)
        )
        print(f"{name}: differs from one by one by {difference:.1e} at most")
        assert difference < TOLERANCE, "the maps are not the same"
    ways = [
        Way(name=name, run=partial(maker, drawn.image, drawn.class_labels), parts=maker.parts)
        for name, maker in makers.items()
    ]
    counted = {way.name: count_operations(way.run) for way in ways}
    measured = take_turns(ways, fabric.device, repeats=options.repeats, warmup=1)
    peak = options.peak or measured_peak(fabric.device)
    print(f"peak {peak:.3g} TFLOP/s, {'as given' if options.peak else 'measured with a large product'}\n")
    rows = []
    for name, one in measured.items():
        floor = counted[name] / peak / 1e9
        row = [name, f"{1000 * count / one.milliseconds:.2f}", f"{counted[name] / count / 1e12:.3f}"]
        row += [f"{100 * floor / one.milliseconds:.0f}", f"{one.peak_bytes / 1e9:.2f}"]
        rows.append([*row, f"{measured['one by one'].milliseconds / one.milliseconds:.2f} x"])
    print_table(["way", "images a second", "TFLOP an image", "floor, %", "peak memory, GB", "against one by one"], rows)
    print_parts(measured)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    parser.add_argument("--batch", type=int, nargs="+", help="images at a time [1 2 4; on a GPU 1 8 16 32]")
    parser.add_argument("--images", type=int, help="images in all [the largest batch]")
    parser.add_argument("--repeats", type=int, default=5, help="times that each way makes them all [5]")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the machine [a large matrix product]")
    parser.add_argument("--threads", type=int, help="CPU threads [torch's choice]")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


class CamMaker:
    """Makes the class scores of images, as `toco make-labels` does or one pass at a time."""

    def __init__(
        self, model: ToCo, config: TrainCam, fabric: Fabric, *, batch: int, one_pass_at_a_time: bool = False
    ) -> None:
        self.model, self.fabric, self.batch = model, fabric, batch
        self.scales = config.scales
        self.one_pass_at_a_time = one_pass_at_a_time
        self.parts = Parts(fabric.device)

    def __call__(
        self,
        images: Tensor,
        class_labels: Tensor,
        precision: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> list[Tensor]:
        """Scores of each image's classes on the CPU, (k, 375, 500); by default in float16, in the stage's precision."""
        results: list[Tensor] = []
        dtype = torch.float16 if precision is None else torch.float32
        for first in range(0, len(images), self.batch):
            few, labels = (one[first : first + self.batch] for one in (images, class_labels))
            with self.parts.part("data to device"):
                squares, labels = few.to(self.fabric.device), labels.to(self.fabric.device)
            with self.parts.part("CAM"), (precision or self.fabric.autocast)():
                present = present_classes(labels)
                if self.one_pass_at_a_time:
                    maps = [present.pick(self._one_by_one(squares, labels).final)[0]]
                else:
                    maps = list(square_cams(self.model, squares, present, self.scales).final)
            counts = labels.sum(dim=1).int().tolist()
            with self.parts.part("resize"):
                full = [resize_maps(one[:k], ORIGINAL).to(dtype) for one, k in zip(maps, counts, strict=True)]
            with self.parts.part("data from device"):
                results += [one.cpu() for one in full]
        return results

    @torch.inference_mode()
    def _one_by_one(self, squares: Tensor, labels: Tensor) -> Cams:
        """All classes of one image, which and whose mirror image go through the network apart."""
        height, width = squares.shape[-2:]
        image = self.model.backbone.normalise(squares.float())
        maps: list[Cams] = []
        for scale in self.scales:
            size = (int(scale * height), int(scale * width))
            scaled = torch.nn.functional.interpolate(image, size=size, mode="bilinear", align_corners=False)
            straight, mirrored = self.model.raw_cams(scaled), self.model.raw_cams(scaled.flip(-1))
            maps.append(Cams(*(torch.cat(pair) for pair in zip(straight, mirrored, strict=True))))
        final, auxiliary = (
            keep_present(normalise(sum_scales(one, (height, width))), labels) for one in zip(*maps, strict=True)
        )
        return Cams(final=final, auxiliary=auxiliary)


if __name__ == "__main__":
    main()
