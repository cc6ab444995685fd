"""The README's picture: eight images of a run, from the photograph to the student's mask.

    uv run python -m bench.figure RUN --out docs/pictures/masks.png

RUN is one in which all stages finished, of a data set with true masks, for instance that of `toco demo`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data.images import read_image
from data.readers import open_dataset, read_mask
from stages.artifacts import open_stage
from stages.config import Predict
from stages.inference import to_tensor
from stages.palette import overlay
from stages.samples import spread
from stages.segmenter import open_segmenter
from stages.store import LabelFile
from stages.toco.threshold import labels_at

ROWS = ("image", "CAM", "pseudo mask", "with CRF", "student", "true mask")
SIDE, GAP, MARGIN = 144, 6, 120  # pixels
UNSURE = (255, 255, 255)


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    labels = open_stage(options.run, "labels")
    dataset = open_dataset(labels.dataset_root)
    masks, cams = (
        LabelFile(labels.path / f"{name}.h5", group) for name, group in (("labels", "masks"), ("cams", "cams"))
    )
    student = open_segmenter(options.run, Predict(source="student"))
    samples = spread([sample for sample in dataset.split() if sample.classes and sample.id in masks], options.images)
    sheet = Image.new("RGB", (MARGIN + len(samples) * (SIDE + GAP), len(ROWS) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(ROWS):
        draw.text((4, row * (SIDE + GAP) + SIDE // 2 - 8), text, fill="black", font=ImageFont.load_default(16))
    for column, sample in enumerate(samples):
        image = read_image(sample.image)
        scores = torch.from_numpy(cams.read(sample.id)).float()
        numbers = np.array([0, *cams.classes(sample.id)], dtype=np.uint8)
        plain = numbers[labels_at(scores, labels.settings["background"]).numpy()]
        predicted = student(to_tensor(image)).numpy().astype(np.uint8)
        truth = read_mask(sample, (image.height, image.width), len(dataset.class_names))
        tiles = [image, heat(image, scores.amax(dim=0).numpy())]
        tiles += [coloured(image, mask) for mask in (plain, masks.read(sample.id), predicted, truth)]
        for row, tile in enumerate(tiles):
            place = (MARGIN + column * (SIDE + GAP), row * (SIDE + GAP))
            sheet.paste(tile.resize((SIDE, SIDE), Image.Resampling.NEAREST), place)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)


def heat(image: Image.Image, score: NDArray[np.float32]) -> Image.Image:
    """Lay scores (h, w), 0..1, over an image: dark where low, yellow where high."""
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255
    glow = np.stack([np.clip(2 * score, 0, 1), np.clip(2 * score - 0.6, 0, 1), np.clip(0.4 - score, 0, 1)], axis=-1)
    return Image.fromarray((255 * np.clip(0.35 * grey + 0.65 * glow, 0, 1)).astype(np.uint8))


def coloured(image: Image.Image, mask: NDArray[np.uint8]) -> Image.Image:
    """Lay a mask's colours over its image; ignored pixels are white."""
    picture = np.asarray(overlay(image, np.where(mask == 255, 0, mask), strength=0.75)).copy()
    picture[mask == 255] = UNSURE
    return Image.fromarray(picture)


if __name__ == "__main__":
    main()
