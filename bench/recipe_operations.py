"""What does a recipe need, by count? Operations of the encoder for a data set, in TFLOP; nothing is run.

    python -m bench.recipe_operations [--images 327] [--height 213] [--width 320]

The default is MSRC. Prints a Markdown table. `best` on a GPU is a ViT-B/14, the others are a ViT-S/14.
"""

import argparse
from collections.abc import Iterator

from stages.config import TrainCam
from stages.features.spec import PATCHES
from stages.planning.operations import VitShape, training_operations
from stages.planning.recipes import LARGE_VIT, MOST_ITERATIONS, RECIPES, PlanRecipe

SMALL = VitShape(width=384, depth=12, patch_size=14, mlp_width=1536)
LARGE = VitShape(width=768, depth=12, patch_size=14, mlp_width=3072)
CAUTIOUS, GOAL = 20e12, 400e12  # operations a second: what plans count with; half of an H100's dense bf16


def operations(recipe: PlanRecipe, images: int, height: int, width: int) -> tuple[float, float, float]:
    """Operations of the training, of the CAMs of the masks, and of the frozen features."""
    shape = LARGE if recipe.backbone == LARGE_VIT else SMALL
    seen = round(recipe.passes * images / recipe.cam["batch_size"])
    steps = min(max(recipe.iterations, seen), MOST_ITERATIONS)
    cam = TrainCam(backbone=recipe.backbone, image_size=recipe.image_size, iterations=steps, **recipe.cam)
    cams = images * sum(2 * shape.encode(int(scale * recipe.image_size)) for scale in recipe.labels["scales"])
    factor = PATCHES * shape.patch_size / max(height, width)
    features = images * shape.encode(round(factor * height), round(factor * width))
    return training_operations(cam, shape), cams, features


def table(images: int, height: int, width: int) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| recipe, for {images} images of {width} x {height} | training | CAMs | features | all at 20; 400 TFLOP/s |"
    yield "| --- | --- | --- | --- | --- |"
    for (name, device), recipe in RECIPES.items():
        parts = operations(recipe, images, height, width)
        whole = [f"{sum(parts) / speed:,.0f} s" for speed in (CAUTIOUS, GOAL)]
        cells = [f"`{name}`, {device}", *(f"{part / 1e12:,.0f}" for part in parts), "; ".join(whole)]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=327)
    parser.add_argument("--height", type=int, default=213)
    parser.add_argument("--width", type=int, default=320)
    options = parser.parse_args()
    print("\n".join(table(options.images, options.height, options.width)))


if __name__ == "__main__":
    main()
