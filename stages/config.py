"""Typed settings of every stage. Each field carries its default and its help once; the command line is made from them.

No torch here, so that `toco --help` answers at once. Sizes are in pixels, rates per iteration, scores in 0..1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stages.option import check_limits, option

NO_FILES = ("pretrained", "none")  # what --weights may be beside a file
Device = Literal["auto", "cpu", "cuda", "mps"]
CrfBackend = Literal["auto", "torch", "pydensecrf"]

# Headings in the commands' help, behind the options that everybody needs.
AUGMENTATION = "Augmentation"
METHOD = "The method's constants"
PROGRESS = "Progress and checkpoints"
MACHINE = "Machine and bad files"


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a command runs, and how it treats bad files; the same for all."""

    device: Device = option("auto", "Processor: auto takes a GPU where there is one.", group=MACHINE)
    skip_bad: bool = option(False, "Go on without images that are missing, unreadable or too small.", group=MACHINE)


@dataclass(frozen=True, kw_only=True)
class Loading(Machine):
    """Settings of commands that load images beside their work."""

    workers: int | None = option(
        None,
        "Processes that load images, for each device; by default as many as help on this machine.",
        minimum=0,
        group=MACHINE,
    )


@dataclass(frozen=True, kw_only=True)
class Parallel(Loading):
    """Settings of commands whose work several processes can share."""

    devices: int = option(
        1, "GPUs of this machine (or processes on a CPU) that share the work.", minimum=1, group=MACHINE
    )
    nodes: int = option(
        1, "Machines that share it, each with so many devices: started by torchrun or srun.", minimum=1, group=MACHINE
    )

    @property
    def processes(self) -> int:
        """How many there are, on all machines."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class Caching(Parallel):
    """Settings of commands that load the same images many times."""

    cache: str | None = option(
        None,
        "Folder to keep images in as they are after decoding, no larger than training needs, so that each file is "
        "decoded once; several runs may share it. Only time depends on it. For photographs of many megapixels and "
        "large PNG or TIFF files; takes some 2 MB an image.",
        group=MACHINE,
    )


@dataclass(frozen=True, kw_only=True)
class Training(Caching):
    """What the two training stages share."""

    split: str | None = option(None, "Split of the data set to train on; by default its training split.")
    iterations: int = option(20_000, "Training steps.", minimum=1)
    batch_size: int = option(4, "Images a step, over all devices together.", minimum=1)
    learning_rate: float = option(6e-5, "Learning rate of the encoder.", minimum=0)
    seed: int = option(0, "Start of all randomness: the same seed gives the same network on one machine.", minimum=0)
    rescale_min: float = option(0.5, "Smallest factor of the random rescale.", minimum=0.05, group=AUGMENTATION)
    rescale_max: float = option(2.0, "Largest factor of the random rescale.", minimum=0.05, group=AUGMENTATION)
    head_factor: float = option(
        10.0, "How much faster than the encoder all that stands on it learns.", minimum=0, group=METHOD
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", minimum=0, group=METHOD)
    warmup: float = option(
        0.075, "Share of the iterations over which the learning rate rises.", minimum=0, maximum=1, group=METHOD
    )
    checkpoint_every: int = option(500, "Iterations between checkpoints, for --resume.", minimum=1, group=PROGRESS)
    log_every: int = option(20, "Iterations between lines of metrics.jsonl.", minimum=1, group=PROGRESS)
    evaluate_every: int = option(
        2000,
        "Iterations between measurements against true masks, where the data set has any; 0 for the end only.",
        minimum=0,
        group=PROGRESS,
    )
    evaluate_images: int = option(
        100, "Images with true masks to measure on during training.", minimum=1, group=PROGRESS
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ValueError: With the options' names.
        """
        check_limits(self)
        if self.rescale_min > self.rescale_max:
            raise ValueError(f"--rescale-min {self.rescale_min} is above --rescale-max {self.rescale_max}")
        if self.batch_size % self.processes:
            more = -(-self.batch_size // self.processes) * self.processes
            raise ValueError(
                f"--batch-size {self.batch_size} (over all devices) cannot be shared evenly by --devices {self.devices}"
                + (f" --nodes {self.nodes}" if self.nodes > 1 else "")
                + f": take --batch-size {more} (more images a step, so fewer --iterations) or fewer devices"
            )

    @property
    def warmup_iterations(self) -> int:
        """Length of the warm-up."""
        return round(self.warmup * self.iterations)


@dataclass(frozen=True, kw_only=True)
class TrainCam(Training):
    """Settings of `toco train-cam`; the defaults are the paper's for VOC 2012."""

    backbone: str = option(
        "deit_base_patch16_224", "Vision Transformer by timm's name: any plain one with a class token."
    )
    backbone_option: tuple[str, ...] = option(
        (),
        "Change of its shape as NAME=VALUE (depth=6, embed_dim=192, patch_size=8 ...), for --weights none.",
    )
    weights: str = option(
        "pretrained",
        "What it starts from: pretrained (download), none (from scratch), or a .safetensors FILE.",
    )
    image_size: int = option(448, "Side of the square training images, a multiple of the patch size.", minimum=16)
    long_side: int | None = option(
        None,
        "First resize images to this longer side; by default 500/448 of the image size, as VOC's are.",
        minimum=8,
        group=AUGMENTATION,
    )
    encoder_start: float = option(
        0.0,
        "Share of the iterations after which the encoder begins to learn; before, only what stands on it. In short "
        "runs this keeps classifiers that know nothing yet from spoiling a pretrained encoder.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    contrast_start: float = option(
        0.0,
        "Share of the iterations after which the token contrasts begin.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    seg_start: float = option(
        0.1,
        "Share of the iterations after which the segmentation branch begins.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    auxiliary_labels_until: float = option(
        0.0,
        "Share of the iterations until which that branch learns from the auxiliary CAM.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    auxiliary_block: int = option(
        -3, "Block whose tokens give the auxiliary CAM; negative counts from the last.", group=METHOD
    )
    ptc_weight: float = option(0.2, "Weight of patch-token contrast; 0 switches it off.", minimum=0, group=METHOD)
    ctc_weight: float = option(0.5, "Weight of class-token contrast; 0 switches it off.", minimum=0, group=METHOD)
    seg_weight: float = option(0.1, "Weight of the segmentation loss.", minimum=0, group=METHOD)
    reg_weight: float = option(0.05, "Weight of the regularised (dense CRF) loss.", minimum=0, group=METHOD)
    temperature: float = option(0.5, "Temperature of class-token contrast.", minimum=0.01, group=METHOD)
    momentum: float = option(0.9, "How slowly the teacher projector follows.", minimum=0, maximum=1, group=METHOD)
    local_crops: int = option(8, "Local crops an image, for class-token contrast.", minimum=1, group=METHOD)
    local_crop_size: int | None = option(
        None,
        "Side of a local crop; by default 96/448 of the image size, in whole patches.",
        minimum=8,
        group=METHOD,
    )
    background: float = option(
        0.5, "CAM score up to which a pixel is background, where masks are measured.", minimum=0, maximum=1
    )
    background_high: float = option(0.7, "CAM score above which a pixel is surely its class.", group=METHOD)
    background_low: float = option(0.25, "CAM score up to which a pixel is surely background.", group=METHOD)
    scales: tuple[float, ...] = option((1.0, 0.5, 1.5), "Image scales over which CAMs are summed.", group=METHOD)
    checkpoint_activations: bool = option(
        False,
        "Activation checkpointing, for GPUs with little memory: the encoder's blocks compute their activations again "
        "in the backward pass. The same result; steps take longer (a tenth on a CPU).",
        group=MACHINE,
    )
    compile: bool = option(
        False,
        "Compile the encoder's blocks (torch.compile), for long runs on a GPU: that takes minutes, and a C++ compiler. "
        "The same result but for rounding.",
        group=MACHINE,
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ValueError: With the options' names.
        """
        super().__post_init__()
        _check_thresholds(self.background_low, self.background_high)
        _check_scales(self.scales)
        for text in self.backbone_option:
            if "=" not in text:
                raise ValueError(f"--backbone-option {text!r} is not of the form NAME=VALUE")


CAM_RECIPES: Mapping[str, Mapping[str, Any]] = {
    "voc": {},
    "coco": {
        "iterations": 80_000,
        "batch_size": 8,
        "warmup": 1_500 / 80_000,
        "background_high": 0.65,
        "background": 0.45,
        "temperature": 1.0,
        "contrast_start": 0.15,
        "seg_start": 0.1,
        "auxiliary_labels_until": 0.15,
        "long_side": 640,
    },
}


@dataclass(frozen=True, kw_only=True)
class MakeLabels(Parallel):
    """Settings of `toco make-labels`."""

    split: str | None = option(None, "Split to make labels for; by default the one that was trained on.")
    source: Literal["cam", "aux", "decoder"] = option(
        "cam",
        "What the masks are made from: the class activation maps of the last block, those of the auxiliary block, or "
        "the decoder's probabilities.",
    )
    crf: Literal["off", "full", "fast"] = option(
        "off",
        "Sharpen with a dense CRF: masks follow edges, unsure pixels become 255 (ignored). --crf alone is full; fast "
        "works at half the resolution.",
        alone="full",
    )
    crf_backend: CrfBackend = option(
        "auto",
        "Who computes it, to the same result: torch (any device) or pydensecrf (CPU); auto takes the faster one.",
    )
    refine: Literal["none", "par", "crf", "par+crf"] = option(
        "none", "How masks are refined: by pixel-adaptive averaging (par), by the dense CRF (as --crf), or by both."
    )
    background: float | Literal["auto"] | None = option(
        None,
        "Pixels whose CAM is at most this are background; higher gives smaller objects. By default as in training "
        "(0.5); auto chooses it without any true mask.",
        minimum=0,
        maximum=1,
    )
    calibrate: int = option(
        0, "Choose --background by the true masks of this many images instead; 0 for none.", minimum=0
    )
    two_thresholds: bool = option(
        False, "Leave pixels between --background-low and --background-high unlabelled (255), without refining."
    )
    background_high: float | None = option(
        None,
        "Score above which a pixel is surely its class; by default as in training, or 1.4 times another --background.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    background_low: float | None = option(
        None,
        "Score up to which a pixel is surely background; by default as in training, or half of another --background.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    image_labels: Literal["given", "predicted"] = option(
        "given",
        "Which images get masks: those whose classes are given, or also those without (no row in labels.csv), by the "
        "network's own predictions.",
    )
    confidence: bool = option(False, "Keep how sure each pixel's label is, for toco train-seg --weigh-by-confidence.")
    image_size: int | None = option(
        None, "Side that images are resized to for their CAMs; by default as in training.", minimum=16
    )
    scales: tuple[float, ...] = option((1.0, 0.5, 1.5), "Image scales over which CAMs are summed.", group=METHOD)
    batch_size: int = option(8, "Images that go through the network together.", minimum=1)

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ValueError: With the options' names.
        """
        check_limits(self)
        if self.two_thresholds and (self.uses_crf or self.uses_par or self.source == "decoder"):
            raise ValueError(
                "--two-thresholds is of class activation maps alone: not with --crf, --refine or a decoder"
            )
        if self.source == "decoder" and (self.calibrate or self.background is not None):
            raise ValueError("--source decoder knows a background of its own: not with --background or --calibrate")
        if self.calibrate and self.background is not None:
            raise ValueError("--background and --calibrate are two ways to choose a background: take one")
        if self.background_low is not None and self.background_high is not None:
            _check_thresholds(self.background_low, self.background_high)
        _check_scales(self.scales)

    @property
    def uses_crf(self) -> bool:
        """Whether a CRF has the last word."""
        return self.crf != "off" or "crf" in self.refine

    @property
    def uses_par(self) -> bool:
        """Whether probabilities are averaged over like-coloured neighbours first."""
        return "par" in self.refine


@dataclass(frozen=True, kw_only=True)
class TrainSeg(Training):
    """Settings of `toco train-seg`."""

    split: str | None = option(None, "Train only on the labelled images of this split; by default on all of them.")

    arch: str = option("DeepLabV3Plus", "Network of segmentation-models-pytorch (DeepLabV3Plus, Unet, FPN ...).")
    encoder: str = option("resnet50", "Its encoder by that library's name; 'tu-NAME' takes timm's NAME.")
    weights: str = option(
        "pretrained", "What the encoder starts from: pretrained (download), none, or a .safetensors FILE."
    )
    batch_size: int = option(16, "Images a step, over all devices together.", minimum=2)
    image_size: int = option(512, "Side of the square training crops, a multiple of 32.", minimum=32)
    long_side: int | None = option(
        None,
        "First resize images to this longer side; by default 500/512 of the image size, as VOC's are.",
        minimum=8,
        group=AUGMENTATION,
    )
    learning_rate: float = option(1e-4, "Learning rate of the encoder.", minimum=0)
    warmup: float = option(
        0.02,
        "Share of the iterations over which the learning rate rises.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    val_split: str | None = option(None, "Split to measure on; by default the data set's validation split.")
    weigh_by_confidence: bool = option(
        False, "Let pixels count as much as their labels are sure, as kept by toco make-labels --confidence."
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ValueError: With the options' names.
        """
        super().__post_init__()
        if self.image_size % 32:
            raise ValueError(
                f"--image-size {self.image_size} is no multiple of 32; take {round(self.image_size / 32) * 32 or 32}"
            )


@dataclass(frozen=True, kw_only=True)
class Predict(Parallel):
    """Settings of `toco predict`."""

    source: Literal["auto", "student", "decoder"] = option(
        "auto",
        "Network: the student of train-seg, or the decoder of train-cam; auto takes the student if trained.",
    )
    write: tuple[Literal["masks", "overlays", "numpy", "probabilities"], ...] = option(
        ("masks", "overlays"),
        "What to write of each image: masks (palette PNG), overlays (the masks' colours on the image), numpy (labels, "
        "uint8), probabilities (of every class, float16).",
    )
    window: int | None = option(
        None,
        "Look at images larger than this many pixels through overlapping square windows of this side, each like an "
        "image of its own; by default images are seen whole, resized to the size of the training images.",
        minimum=16,
    )
    batch_size: int | None = option(
        None,
        "Images of one size, or windows, that go through the network together; by default 8 on a GPU and 1 elsewhere.",
        minimum=1,
    )
    mirror: bool = option(True, "Look at each image mirrored as well: half as fast, a little more exact.")
    scales: tuple[float, ...] = option((1.0,), "Image scales whose outputs are fused.", group=METHOD)
    crf: bool = option(False, "Sharpen with a dense CRF.")
    crf_backend: CrfBackend = option(
        "auto",
        "Who computes it, to the same result: torch (any device) or pydensecrf (CPU); auto takes the faster one.",
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            ValueError: With the options' names.
        """
        check_limits(self)
        _check_scales(self.scales)
        if not self.write:
            raise ValueError("--write must name something to write")
        if self.window is not None and "probabilities" in self.write:
            raise ValueError("--write probabilities is of images that are seen whole: not with --window")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Machine):
    """Settings of `toco evaluate`."""

    split: str | None = option(
        None,
        "Split to measure the networks on; by default the validation split. CAM and pseudo masks are always measured "
        "on the images they were made for.",
    )
    images: int | None = option(
        None, "Measure on at most this many images of a split, evenly spread; by default on all of them.", minimum=1
    )

    def __post_init__(self) -> None:
        """Refuse values beyond limits.

        Raises:
            ValueError: With the option's name.
        """
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class Report(Evaluate):
    """Settings of `toco report`."""

    images: int | None = option(
        500, "Measure on at most this many images of a split, evenly spread: the table says on how many.", minimum=1
    )
    gallery: int = option(
        24,
        "Photographs to show: best, median and worst ones, and for each class at least three as far as there are any.",
        minimum=1,
    )
    compare: tuple[str, ...] = option(
        (), "Another RUN whose network's over-smoothing is drawn beside this one's, such as one with --ptc-weight 0."
    )


@dataclass(frozen=True, kw_only=True)
class View(Machine):
    """Settings of `toco view`."""

    background: float | None = option(
        None, "Background score of the mask without CRF; by default that of the labels.", minimum=0, maximum=1
    )

    def __post_init__(self) -> None:
        """Refuse values beyond limits.

        Raises:
            ValueError: With the option's name.
        """
        check_limits(self)


STAGES = ("train-cam", "make-labels", "train-seg")


@dataclass(frozen=True, kw_only=True)
class Run(Caching):
    """Settings of `toco run`; what a stage has as well is handed on to it."""

    seed: int = option(0, "Start of all randomness, of all stages.", minimum=0)
    overwrite: Literal["nothing", "train-cam", "make-labels", "train-seg"] = option(
        "nothing",
        "Start again with this stage: what it and those after it have written is replaced. --overwrite alone starts "
        "all again.",
        alone="train-cam",
    )

    def __post_init__(self) -> None:
        """Refuse values beyond limits.

        Raises:
            ValueError: With the option's name.
        """
        check_limits(self)


def _check_thresholds(low: float, high: float) -> None:
    if not 0 <= low < high <= 1:
        raise ValueError(f"--background-low {low} must be below --background-high {high}, both between 0 and 1")


def _check_scales(scales: tuple[float, ...]) -> None:
    if not scales or min(scales) <= 0:
        raise ValueError("--scales must be one or more positive factors")
