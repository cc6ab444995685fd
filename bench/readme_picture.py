"""Draw the picture of the README: images of a run with their CAMs, masks and the student's output.

uv run toco demo --out runs/demo
uv run python -m bench.readme_picture runs/demo/run --out docs/pictures/masks.png
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from data.palette import class_colours
from data.readers import open_dataset
from stages.config import Machine
from stages.reporting.gallery import panels
from stages.reporting.products import open_products
from stages.run_folder.artifacts import open_stage
from stages.run_folder.run_data import spread
from stages.runtime.monitor import SilentMonitor

SIDE, GAP, MARGIN = 144, 6, 160  # pixels


def main() -> None:
    """Draw the picture and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=8)
    options = parser.parse_args()
    dataset = open_dataset(open_stage(options.run, "labels").dataset_root)
    products = open_products(options.run, dataset, Machine(), SilentMonitor())
    colours = class_colours(len(dataset.class_names))
    samples = spread([sample for sample in dataset.split() if sample.classes], options.images)
    columns = [panels(products.of(sample), products, colours, products.background_threshold) for sample in samples]
    rows = [title for title in columns[0] if title != "auxiliary CAM"]
    sheet = Image.new("RGB", (MARGIN + len(columns) * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, title in enumerate(rows):
        top = row * (SIDE + GAP)
        draw.text((4, top + SIDE // 2 - 8), title, fill="black", font=ImageFont.load_default(16))
        for place, column in enumerate(columns):
            tile = column[title].resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + place * (SIDE + GAP), top))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
