"""The recipes of the planner as values: every number that a plan starts from stands in this file.

`voc` and `coco` are published settings (`stages.config.CAM_RECIPES`); no planner changes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Values = Mapping[str, Any]
DeviceKind = Literal["cpu", "gpu"]

ORDER = ("quick", "balanced", "best")  # from the shortest to the longest
DEFAULT = "balanced"

SMALL_VIT = "vit_small_patch14_dinov2.lvd142m"  # Apache-2.0; self-supervised, so its features suit any subject
LARGE_VIT = "vit_base_patch14_dinov2.lvd142m"
PATCH_16 = "deit_small_patch16_224"  # instead of them, for a given image size that is a multiple of 16 but not of 14


@dataclass(frozen=True, kw_only=True)
class PlanRecipe:
    """One recipe on one kind of machine.

    Attributes:
        backbone: timm's name of the network.
        image_size: Side of the training images in pixels; rounded to whole patches of the backbone.
        smallest_image_size: What a short time may reduce it to.
        iterations: Training steps of a small data set.
        fewest_iterations: What a short time may reduce them to.
        passes: A large data set gets more steps, until each image was seen this many times.
        cam: Further settings of train-cam, by field.
        labels: Settings of make-labels.
        student: Settings of train-seg for a head on frozen features.
        image_student: Settings of train-seg for a network of segmentation-models-pytorch.
        loss: What it loses against the next longer recipe.
    """

    backbone: str
    image_size: int
    smallest_image_size: int
    iterations: int
    fewest_iterations: int
    passes: float
    cam: Values
    labels: Values
    student: Values
    image_student: Values
    loss: str = ""


# Found on 327 photographs (bench/msrc.md). The classifiers learn first, on the frozen encoder.
SHORT_TRAINING: Values = {
    "batch_size": 4,
    "learning_rate": 2e-5,
    "head_lr_multiplier": 150.0,
    "warmup_fraction": 0.05,
    "freeze_encoder_until": 0.4,
    "contrast_start": 0.4,
    "seg_start": 0.4,
    "rescale_min": 0.8,
    "rescale_max": 1.4,
}
# Not measured yet: the settings that bench/msrc.md proposes for a GPU.
LONG_TRAINING: Values = {"batch_size": 8, "freeze_encoder_until": 0.1, "contrast_start": 0.1, "seg_start": 0.15}
# CAMs of several scales, also after a training with one: masks are made once, so that it costs little.
MASKS: Values = {"relabel": "auto", "refine": "crf", "scales": (1.0, 0.5, 1.5)}
# After a training on small images, CAMs of images twice as large are better: a point on MSRC and on the tiles, one seed
# each (bench/quality.md).
CPU_MASKS: Values = {**MASKS, "scales": (1.0, 2.0)}
HEAD: Values = {"arch": "mlp", "iterations": 1500}
CPU_DEEPLAB: Values = {
    "arch": "DeepLabV3Plus",
    "encoder": "resnet18",
    "image_size": 256,
    "batch_size": 8,
    "iterations": 300,
    "learning_rate": 5e-4,
    "head_lr_multiplier": 4.0,
    "rescale_min": 0.8,
    "rescale_max": 1.4,
}
GPU_DEEPLAB: Values = {"arch": "DeepLabV3Plus", "encoder": "resnet50", "iterations": 4000}

RECIPES: Mapping[tuple[str, DeviceKind], PlanRecipe] = {
    ("quick", "cpu"): PlanRecipe(
        backbone=SMALL_VIT,
        image_size=196,
        smallest_image_size=140,
        iterations=500,
        fewest_iterations=150,
        passes=0.0,
        # Contrast is most of a step. On MSRC it brings nothing after relabelling (bench/recipes.md).
        cam={**SHORT_TRAINING, "ptc_weight": 0.0, "ctc_weight": 0.0, "scales": (1.0,)},
        labels=CPU_MASKS,
        student=HEAD,
        image_student={**CPU_DEEPLAB, "iterations": 150},
        loss="no token contrast, which brings several points on some data sets and nothing on others",
    ),
    ("balanced", "cpu"): PlanRecipe(
        backbone=SMALL_VIT,
        image_size=196,
        smallest_image_size=168,
        iterations=500,
        fewest_iterations=300,
        passes=0.0,
        # Three scales as in the paper. With one scale, two networks of the tiles learned nothing (bench/recipes.md).
        cam={**SHORT_TRAINING, "scales": (1.0, 0.5, 1.5)},
        labels=CPU_MASKS,
        student=HEAD,
        image_student=CPU_DEEPLAB,
        loss="smaller images and fewer steps: outlines and small objects are less exact",
    ),
    ("best", "cpu"): PlanRecipe(
        backbone=SMALL_VIT,
        image_size=224,
        smallest_image_size=196,
        iterations=1000,
        fewest_iterations=500,
        passes=2.0,
        cam={**SHORT_TRAINING, "scales": (1.0, 0.5, 1.5)},
        labels=CPU_MASKS,
        student={**HEAD, "iterations": 3000},
        image_student={**CPU_DEEPLAB, "iterations": 1000},
    ),
    ("quick", "gpu"): PlanRecipe(
        backbone=SMALL_VIT,
        image_size=336,
        smallest_image_size=224,
        iterations=1000,
        fewest_iterations=200,
        passes=2.0,
        cam={**SHORT_TRAINING, "batch_size": 8, "scales": (1.0, 0.5, 1.5)},
        labels=MASKS,
        student=HEAD,
        image_student={**GPU_DEEPLAB, "iterations": 2000},
        loss="a smaller network and fewer steps: small and similar classes are found less often",
    ),
    ("balanced", "gpu"): PlanRecipe(
        backbone=SMALL_VIT,
        image_size=448,
        smallest_image_size=336,
        iterations=4000,
        fewest_iterations=1000,
        passes=5.0,
        cam={**LONG_TRAINING, "scales": (1.0, 0.5, 1.5)},
        labels=MASKS,
        student=HEAD,
        image_student=GPU_DEEPLAB,
        loss="a smaller network and fewer steps: similar classes are told apart less well",
    ),
    ("best", "gpu"): PlanRecipe(
        backbone=LARGE_VIT,
        image_size=448,
        smallest_image_size=448,
        iterations=10_000,
        fewest_iterations=4000,
        passes=10.0,
        cam={**LONG_TRAINING, "scales": (1.0, 0.5, 1.5)},
        labels=MASKS,
        student=HEAD,
        image_student={**GPU_DEEPLAB, "iterations": 10_000},
    ),
}
# The settings that plans choose, as far as 'auto' is not a value of their own.
CAM_FIELDS = frozenset({"backbone", "image_size", "iterations"}.union(*(one.cam for one in RECIPES.values())))
STUDENT_FIELDS = frozenset({"arch"}.union(*({*one.student, *one.image_student} for one in RECIPES.values())))
MOST_ITERATIONS = 20_000  # the paper's, for 10,582 images

# Reasons of the values, in a few words; `planner` has those that depend on the data.
REASONS: Mapping[str, str] = {
    "batch_size": "as in bench/msrc.md",
    "learning_rate": "short training of a pretrained encoder",
    "head_lr_multiplier": "the new classifiers learn fast",
    "warmup_fraction": "short training",
    "freeze_encoder_until": "lets the classifiers learn first",
    "contrast_start": "needs trained classifiers",
    "ptc_weight": "contrast is most of a step",
    "ctc_weight": "contrast is most of a step",
    "seg_start": "needs trained classifiers",
    "rescale_min": "keeps objects large",
    "rescale_max": "keeps objects large",
    "scales": "image sizes for CAMs; in training, one is twice as fast",
    "relabel": "heads on frozen features improve the masks",
    "refine": "masks follow the image's edges",
    "encoder": "fits the machine",
}

# Seconds that are not measured before each run. CPU, one core of an AMD EPYC; a GPU is taken as ten times as fast.
CRF_SECONDS_A_MEGAPIXEL = 3.3  # of one core: both passes, three labels (bench/crf.md)
SLIC_SECONDS_A_MEGAPIXEL = 1.3  # of one core: SLIC 1.1 at 0.07 to 1 megapixels, the rest to sort the pixels
# Of facebook/sam-vit-base, counted by torch's FlopCounterMode: the encoder at 1024 pixels, and the decoder for a point.
SAM_OPERATIONS = 0.97e12
SAM_OPERATIONS_A_POINT = 3.6e9
# Of a head on two cores. Measured in a run on MSRC: 0.006 and 0.125 (bench/recipes.md).
RELABEL_SECONDS_A_STEP = 0.01  # two heads in each round, and auto compares two results
STUDENT_SECONDS_A_STEP = 0.15  # batch 16; mostly reading
GPU_FACTOR = 10
GPU_SHORTEST_STEP = 0.1  # seconds
REPORT_IMAGES = 500  # that the report measures the networks on, at most
GPU_OPERATIONS_A_SECOND = 20e12  # assumed where a plan for a CPU says what a GPU would change
# A step of ResNet-18 at 192 pixels with 4 images takes 0.5 s on two cores.
IMAGE_STUDENT_SECONDS_A_MEGAPIXEL = 0.5 / (4 * 192**2 / 1e6)
