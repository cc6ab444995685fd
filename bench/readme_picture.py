"""Draw images of a run with their CAMs, masks and the student's output: the pictures of the README and of the docs.

uv run toco demo --out runs/demo
uv run python -m bench.readme_picture runs/demo/run --out docs/pictures/masks.png
uv run python -m bench.readme_picture RUN --ids ID ID --out docs/pictures/relabelling.png
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from data.palette import class_colours
from data.readers import open_dataset
from stages.config import Machine
from stages.reporting.gallery import panels
from stages.reporting.products import open_products
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import spread
from stages.runtime.monitor import SilentMonitor

SIDE, GAP, MARGIN, TITLE = 144, 6, 160, 24  # pixels


def below_each_other(columns: Sequence[Mapping[str, Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Draw one column for each image, with the titles on the left; images become squares."""
    sheet = Image.new("RGB", (MARGIN + len(columns) * (SIDE + GAP), len(titles) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, title in enumerate(titles):
        top = row * (SIDE + GAP)
        draw.text((4, top + SIDE // 2 - 8), title, fill="black", font=ImageFont.load_default(16))
        for place, column in enumerate(columns):
            tile = column[title].resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + place * (SIDE + GAP), top))
    return sheet


def beside_each_other(rows: Sequence[Mapping[str, Image.Image]], titles: Sequence[str]) -> Image.Image:
    """Draw one row for each image, with the titles above; images keep their shape."""
    tiles = [[ImageOps.contain(row[title], (MARGIN, MARGIN)) for title in titles] for row in rows]
    heights = [max(one.height for one in row) + GAP for row in tiles]
    sheet = Image.new("RGB", (len(titles) * (MARGIN + GAP), TITLE + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, title in enumerate(titles):
        draw.text((place * (MARGIN + GAP), 2), title, fill="black", font=ImageFont.load_default(13))
        for row, own in enumerate(tiles):
            sheet.paste(own[place], (place * (MARGIN + GAP), TITLE + sum(heights[:row])))
    return sheet


def main() -> None:
    """Draw the picture and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--ids", nargs="+", help="these images, one below the other, instead of --images")
    options = parser.parse_args()
    dataset = open_dataset(open_stage(options.run, "labels").dataset_root)
    products = open_products(options.run, dataset, Machine(), SilentMonitor())
    colours = class_colours(len(dataset.class_names))
    samples = [sample for sample in dataset.split() if sample.classes]
    if options.ids:
        chosen = [sample for sample in samples if sample.id in options.ids]
    else:
        chosen = spread(samples, options.images)
    drawn = [panels(products.of(sample), products, colours, products.background_threshold) for sample in chosen]
    titles = [title for title in drawn[0] if title != "auxiliary CAM"]
    sheet = (beside_each_other if options.ids else below_each_other)(drawn, titles)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
