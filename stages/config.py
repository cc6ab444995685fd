"""Typed settings of every stage. Each field carries its default and its help; the command line is built from them.

This file does not import torch, so that `toco --help` is instant. Sizes are in pixels, scores in 0..1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from data.band_numbers import band_numbers
from data.errors import SettingsError
from stages.option import check_limits, option, with_current_names

FEATURE_HEADS = ("linear", "mlp", "conv")  # values of --arch that are heads on frozen features
NO_FILES = ("pretrained", "none")  # values of --weights that are not paths
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bf16"]
CrfBackend = Literal["auto", "torch", "pydensecrf"]
ImageBits = Literal["auto", "8", "10", "12", "14", "16"]
LoggerName = Literal["tensorboard", "wandb", "mlflow"]
AlphaBand = Literal["auto", "transparency", "ignore"]

# Headings in the help, below the options that everybody needs.
PIXELS = "Values in image files"
AUGMENTATION = "Augmentation"
METHOD = "Constants of the method"
PROGRESS = "Progress and checkpoints"
RELABELLING = "Relabelling"
SEGMENTS = "Segments"
MACHINE = "Hardware and bad files"

UseMasks = Literal["none", "corrected", "all"]
USE_MASKS_HELP = (
    "Use masks drawn by people in place of pseudo masks: corrected (those of 'toco import'), all (also the "
    "ground-truth masks of the training images) or none."
)
CRF_BACKEND_HELP = (
    "Implementation of the CRF: torch (any device) or pydensecrf (CPU only). Both give the same result; auto takes the "
    "faster one."
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Device and treatment of bad files; shared by all commands."""

    device: Device = option("auto", "Device; auto uses a GPU if one is available.", group=MACHINE)
    precision: Precision = option(
        "auto",
        "Number format of the networks' computations; auto takes bf16 on GPUs that support it, float32 elsewhere.",
        group=MACHINE,
    )
    skip_bad: bool = option(False, "Skip images that are missing, unreadable or too small.", group=MACHINE)


@dataclass(frozen=True, kw_only=True)
class Loading(Machine):
    """Settings of commands that load images in the background."""

    workers: int | None = option(
        None,
        "Worker processes that load images, per device; by default as many as help on this machine.",
        minimum=0,
        group=MACHINE,
    )


@dataclass(frozen=True, kw_only=True)
class Parallel(Loading):
    """Settings of commands that can run in several processes."""

    devices: int = option(
        1, "Number of GPUs of this machine to use (on a CPU: number of processes).", minimum=1, group=MACHINE
    )
    nodes: int = option(
        1,
        "Number of machines, each with --devices devices. Start the command on all of them with torchrun or srun.",
        minimum=1,
        group=MACHINE,
    )

    @property
    def processes(self) -> int:
        """Number of processes on all machines."""
        return self.devices * self.nodes


@dataclass(frozen=True, kw_only=True)
class Caching(Parallel):
    """Settings of commands that load the same images many times."""

    cache: str | None = option(
        None,
        "Folder in which decoded images are kept, reduced to the size that training needs, so that each file is "
        "decoded only once. Several runs may share it. It changes the speed, not the result. Useful for photographs of "
        "many megapixels and for large PNG or TIFF files; takes about 2 MB an image.",
        group=MACHINE,
    )


@dataclass(frozen=True, kw_only=True)
class Logging(Caching):
    """Settings of commands that train."""

    logger: tuple[LoggerName, ...] = option(
        (),
        "Also log the figures of metrics.jsonl and the panels to TensorBoard (RUN/*/tensorboard), Weights & Biases or "
        "MLflow.",
        group=PROGRESS,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(Logging):
    """Settings that both training stages have."""

    split: str | None = option(None, "Split of the data set to train on; by default its training split.")
    iterations: int = option(20_000, "Training steps.", minimum=1)
    batch_size: int = option(4, "Images per step, over all devices together.", minimum=1)
    learning_rate: float = option(6e-5, "Learning rate of the encoder.", minimum=0)
    seed: int = option(
        0,
        "Random seed. The same seed gives the same network on the same processor with the same number of threads.",
        minimum=0,
    )
    rescale_min: float = option(0.5, "Smallest factor of the random rescaling.", minimum=0.05, group=AUGMENTATION)
    rescale_max: float = option(2.0, "Largest factor of the random rescaling.", minimum=0.05, group=AUGMENTATION)
    head_lr_multiplier: float = option(
        10.0,
        "Learning-rate multiplier for everything except the encoder.",
        minimum=0,
        group=METHOD,
        old_names=("head_factor",),
    )
    weight_decay: float = option(0.01, "Weight decay of AdamW.", minimum=0, group=METHOD)
    warmup_fraction: float = option(
        0.075,
        "Fraction of training over which the learning rate rises.",
        minimum=0,
        maximum=1,
        group=METHOD,
        old_names=("warmup",),
    )
    clip_grad: float = option(
        0.0, "Clip the norm of all gradients together to this value; 0 for no clipping.", minimum=0, group=METHOD
    )
    checkpoint_every: int = option(500, "Iterations between checkpoints, for --resume.", minimum=1, group=PROGRESS)
    log_every: int = option(20, "Iterations between lines of metrics.jsonl.", minimum=1, group=PROGRESS)
    evaluate_every: int = option(
        2000,
        "Iterations between evaluations on ground-truth masks, if the data set has any; 0 evaluates only at the end.",
        minimum=0,
        group=PROGRESS,
    )
    panel_every: int | None = option(
        None,
        "Iterations between panels: pictures of a few images, their CAMs and masks, in RUN/*/panels. By default 20 in "
        "a training; 0 draws none. They take at most 2 % of the time.",
        minimum=0,
        group=PROGRESS,
    )
    evaluate_images: int = option(
        100, "Number of images with a ground-truth mask to evaluate on during training.", minimum=1, group=PROGRESS
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        check_limits(self)
        if self.rescale_min > self.rescale_max:
            raise SettingsError(f"--rescale-min {self.rescale_min} is above --rescale-max {self.rescale_max}")
        if self.batch_size % self.processes:
            more = -(-self.batch_size // self.processes) * self.processes
            nodes = f" --nodes {self.nodes}" if self.nodes > 1 else ""
            raise SettingsError(
                f"--batch-size {self.batch_size} (over all devices) cannot be divided evenly by --devices "
                f"{self.devices}{nodes}: use --batch-size {more} (more images per step, so fewer --iterations) or "
                "fewer devices"
            )

    @property
    def warmup_iterations(self) -> int:
        """Length of the warm-up."""
        return round(self.warmup_fraction * self.iterations)


@dataclass(frozen=True, kw_only=True)
class PixelValues:
    """How networks get the values in image files; settings of `toco check`, `toco run` and `toco train-cam`."""

    bands: str = option(
        "auto",
        "Bands that the network gets, at full depth: numbers from 1, as in GDAL (4,3,2), or all. auto: red, green and "
        "blue of pictures with 8 bits, otherwise all bands. All stages use the same.",
        group=PIXELS,
    )
    image_bits: ImageBits = option(
        "auto",
        "Read 16-bit images as 8-bit RGB, with this many bits for white; auto keeps their full depth, unless the data "
        "set also has images of 8 bits.",
        group=PIXELS,
    )
    alpha: AlphaBand = option(
        "auto",
        "Whether a band marked as alpha is transparency, shown on white, or another band to ignore, such as infrared; "
        "auto looks at some of them.",
        group=PIXELS,
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        if self.bands not in ("auto", "all"):
            band_numbers(self.bands)
        if self.bands != "auto" and self.image_bits != "auto":
            raise SettingsError(
                f"--image-bits {self.image_bits} reads images as 8-bit RGB, --bands {self.bands} at full depth: give "
                "one of them"
            )


@dataclass(frozen=True, kw_only=True)
class TrainCam(PixelValues, TrainingSettings):
    """Settings of `toco train-cam`; the defaults are the paper's for VOC 2012."""

    backbone: str = option(
        "deit_base_patch16_224",
        "Encoder, by its timm name: a plain Vision Transformer, or a network with stages such as Swin or ConvNeXt.",
    )
    backbone_option: tuple[str, ...] = option(
        (),
        "Change the backbone's shape, as NAME=VALUE (depth=6, embed_dim=192, patch_size=8 ...); for --weights none.",
    )
    weights: str = option(
        "pretrained",
        "Initial weights: pretrained (download), none (random), or a .safetensors FILE.",
    )
    image_size: int = option(448, "Side of the square training images, a multiple of the patch size.", minimum=16)
    long_side: int | None = option(
        None,
        "Resize images so that their longer side has this length; by default 500/448 of the image size, as for VOC.",
        minimum=8,
        group=AUGMENTATION,
    )
    freeze_encoder_until: float = option(
        0.0,
        "Keep the encoder frozen for this fraction of training. In short runs this protects a pretrained encoder from "
        "untrained classifiers.",
        minimum=0,
        maximum=1,
        group=METHOD,
        old_names=("encoder_start",),
    )
    contrast_start: float = option(
        0.0, "Fraction of training after which token contrast starts.", minimum=0, maximum=1, group=METHOD
    )
    seg_start: float = option(
        0.1, "Fraction of training after which the segmentation branch starts.", minimum=0, maximum=1, group=METHOD
    )
    auxiliary_labels_until: float = option(
        0.0,
        "Fraction of training during which the segmentation branch learns from the auxiliary CAM.",
        minimum=0,
        maximum=1,
        group=METHOD,
    )
    auxiliary_block: int | None = option(
        None,
        "Block whose patch tokens give the auxiliary CAM; negative numbers count from the last. By default -3; of a "
        "network with stages (Swin, ConvNeXt, ResNet ...), stage -2.",
        group=METHOD,
    )
    ptc_weight: float = option(0.2, "Weight of patch-token contrast; 0 turns it off.", minimum=0, group=METHOD)
    ctc_weight: float = option(0.5, "Weight of class-token contrast; 0 turns it off.", minimum=0, group=METHOD)
    seg_weight: float = option(0.1, "Weight of the segmentation loss.", minimum=0, group=METHOD)
    reg_weight: float = option(0.05, "Weight of the regularised (dense CRF) loss.", minimum=0, group=METHOD)
    temperature: float = option(0.5, "Temperature of class-token contrast.", minimum=0.01, group=METHOD)
    momentum: float = option(
        0.9, "Momentum of the teacher projector (exponential moving average).", minimum=0, maximum=1, group=METHOD
    )
    local_crops: int = option(8, "Local crops per image for class-token contrast.", minimum=1, group=METHOD)
    local_crop_size: int | None = option(
        None,
        "Side of a local crop; by default 96/448 of the image size, rounded to whole patches.",
        minimum=8,
        group=METHOD,
    )
    background_threshold: float = option(
        0.5,
        "Pixels whose CAM score is at most this count as background when CAMs are evaluated.",
        minimum=0,
        maximum=1,
        old_names=("background",),
    )
    high_threshold: float = option(
        0.7,
        "Pixels with a CAM score above this are labelled as the class.",
        group=METHOD,
        old_names=("background_high",),
    )
    low_threshold: float = option(
        0.25,
        "Pixels with a CAM score up to this are labelled as background.",
        group=METHOD,
        old_names=("background_low",),
    )
    scales: tuple[float, ...] = option((1.0, 0.5, 1.5), "Image scales whose CAMs are summed.", group=METHOD)
    grad_checkpointing: bool = option(
        False,
        "Gradient checkpointing, for GPUs with little memory: blocks of the encoder recompute their activations in the "
        "backward pass. The result is the same; steps take longer (10 % on a CPU).",
        group=MACHINE,
        old_names=("checkpoint_activations",),
    )
    compile: bool = option(
        False,
        "Compile the encoder's blocks (torch.compile), for long runs on a GPU. Takes minutes and needs a C++ compiler. "
        "The result is the same except for rounding.",
        group=MACHINE,
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        TrainingSettings.__post_init__(self)
        PixelValues.__post_init__(self)
        _check_thresholds(self.low_threshold, self.high_threshold)
        _check_scales(self.scales)
        for text in self.backbone_option:
            if "=" not in text:
                raise SettingsError(f"--backbone-option {text!r} must have the form NAME=VALUE")

    def crop_side(self, patch_size: int) -> int:
        """Side of a local crop in pixels: whole patches.

        Published: 96 of 448 pixels. At least two patches, so that a crop has more than one token.
        """
        return max(2, round((self.local_crop_size or self.image_size * 96 / 448) / patch_size)) * patch_size


# Published settings; `stages.planning.recipes` has the recipes that depend on the data and the machine.
RECIPE_OF_DEFAULTS = "voc"
CAM_RECIPES: Mapping[str, Mapping[str, Any]] = {
    RECIPE_OF_DEFAULTS: {},
    "coco": {
        "iterations": 80_000,
        "batch_size": 8,
        "warmup_fraction": 1_500 / 80_000,
        "high_threshold": 0.65,
        "background_threshold": 0.45,
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

    split: str | None = option(None, "Split to label; by default the one that the network was trained on.")
    source: Literal["cam", "aux", "decoder"] = option(
        "cam",
        "Source of the masks: the class activation maps of the last block (cam) or of the auxiliary block (aux), or "
        "the decoder's probabilities.",
    )
    refine: Literal["none", "par", "crf", "par+crf"] = option(
        "none",
        "Refinement of the masks: pixel-adaptive refinement (par), a dense CRF (crf), or both. With a CRF, masks "
        "follow the image's edges and uncertain pixels become 255 (ignored). --crf is short for --refine crf.",
        shorthand="crf",
        old_values_of_shorthand=("off", "full", "fast"),
    )
    crf_fast: bool = option(False, "Run the CRF at half the resolution.")
    segments: str = option(
        "none",
        "Let segments without classes vote on the scores before they are refined: slic (superpixels), sam (a Segment "
        "Anything Model), or a DIR with one file for each image: JSON of SAM, a label image, or .npy.",
    )
    segment_weight: float | None = option(
        None,
        "Weight of the segments' votes; the rest is the weight of the pixel's own scores. By default 0.5 for slic, "
        "otherwise 1.",
        minimum=0,
        maximum=1,
        group=SEGMENTS,
    )
    slic_segments: int = option(400, "Superpixels per image, about.", minimum=2, group=SEGMENTS)
    slic_compactness: float = option(
        30.0, "Weight of distance beside colour: higher values give squarer superpixels.", minimum=0.01, group=SEGMENTS
    )
    sam_model: str = option(
        "facebook/sam-vit-base",
        "Model of --segments sam: a SAM or SAM 2 of transformers, by its name on the Hugging Face hub or its folder.",
        group=SEGMENTS,
    )
    sam_points: int = option(
        32, "Points per side of the grid at which the model looks for segments.", minimum=1, group=SEGMENTS
    )
    crf_backend: CrfBackend = option("auto", CRF_BACKEND_HELP)
    background_threshold: float | Literal["auto"] | None = option(
        None,
        "Pixels whose CAM score is at most this are background; a higher threshold gives smaller objects. By default "
        "as in training (0.5); auto chooses it without ground truth.",
        minimum=0,
        maximum=1,
        old_names=("background",),
    )
    calibration_images: int = option(
        0,
        "Choose --background-threshold on the ground-truth masks of this many images; 0 to switch this off.",
        minimum=0,
        old_names=("calibrate",),
    )
    ignore_uncertain: bool = option(
        False,
        "Set pixels between --low-threshold and --high-threshold to 255 (ignored); not with --refine.",
        old_names=("two_thresholds",),
    )
    high_threshold: float | None = option(
        None,
        "Pixels with a score above this are labelled as the class. Default: the value of the training. If "
        "--background-threshold differs from the training's, 1.4 times that threshold, at most 0.95.",
        minimum=0,
        maximum=1,
        group=METHOD,
        old_names=("background_high",),
    )
    low_threshold: float | None = option(
        None,
        "Pixels with a score up to this are labelled as background. Default: the value of the training. If "
        "--background-threshold differs from the training's, half of that threshold.",
        minimum=0,
        maximum=1,
        group=METHOD,
        old_names=("background_low",),
    )
    relabel: Literal["auto", "none", "linear", "mlp", "mil"] = option(
        "auto",
        "Improve the masks: heads on frozen features learn from the CAMs' labels of all images, and label them again. "
        "linear suits photographs, mlp (a hidden layer) textures. mil (multiple-instance learning) does not use the "
        "CAMs: its head learns the image labels from single patches, which suits small defects. auto takes mil where "
        "the CAM network has not learned the image labels; otherwise linear heads, unless a classifier that learns "
        "from their masks is worse than one that learns from the masks of the CAMs; with --calibration-images it "
        "takes none, linear or mlp, whichever is best on these. --ignore-uncertain implies none.",
    )
    relabel_rounds: int = option(10, "How often all images are labelled again.", minimum=1, group=RELABELLING)
    relabel_steps: int = option(300, "Training steps of each head in a round.", minimum=20, group=RELABELLING)
    feature_backbone: str | None = option(
        None, "Vision Transformer of the features, by its timm name; by default that of train-cam.", group=RELABELLING
    )
    feature_weights: str = option(
        "auto",
        "Its weights: pretrained (download), a .safetensors FILE, or trained (those that train-cam made). By default "
        "the weights that train-cam began with, or the trained ones if those were random.",
        group=RELABELLING,
    )
    feature_size: int | None = option(
        None,
        "Longer side of the images for the features, in pixels; by default 32 patches. Small objects need more.",
        minimum=16,
        group=RELABELLING,
    )
    feature_blocks: tuple[int, ...] | None = option(
        None,
        "Blocks whose tokens are joined; negative numbers count from the last. By default the last block (-1); for "
        "--relabel mil the first of the second half, which still shows small parts.",
        group=RELABELLING,
    )
    image_labels: Literal["given", "predicted"] = option(
        "given",
        "With given, only images that have image labels get masks; with predicted, also images without a row in "
        "labels.csv, whose classes the network predicts.",
    )
    use_masks: UseMasks = option("corrected", USE_MASKS_HELP)
    confidence: bool = option(
        False, "Store the confidence of each pixel's label, for toco train-seg --confidence-weighting."
    )
    image_size: int | None = option(
        None, "Side to which images are resized for their CAMs; by default as in training.", minimum=16
    )
    window: int | None = option(
        None,
        "Make the CAMs of larger images from overlapping square windows of this many pixels, each resized to "
        "--image-size, so that small objects keep their pixels. By default each image is one piece.",
        minimum=16,
    )
    scales: tuple[float, ...] | None = option(
        None, "Image scales whose CAMs are summed; by default those of the training.", group=METHOD
    )
    batch_size: int = option(8, "Images per forward pass.", minimum=1)

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        check_limits(self)
        asked_to_relabel = self.relabel not in ("auto", "none")
        if self.ignore_uncertain and (self.refine != "none" or asked_to_relabel or self.source == "decoder"):
            raise SettingsError(
                "--ignore-uncertain needs plain CAMs: it does not work with --refine, --relabel or --source decoder"
            )
        if self.source == "decoder" and (self.calibration_images or self.background_threshold is not None):
            raise SettingsError(
                "--source decoder predicts the background itself: it does not work with --background-threshold or "
                "--calibration-images"
            )
        if self.source == "decoder" and self.window is not None:
            raise SettingsError("--window is for CAMs: it does not work with --source decoder")
        if self.calibration_images and self.background_threshold is not None:
            raise SettingsError("--background-threshold and --calibration-images exclude each other: give one")
        if self.calibration_images and self.relabel == "mil":
            raise SettingsError(
                "--calibration-images chooses a threshold of CAMs, and --relabel mil makes its masks without CAMs: "
                "give one of them"
            )
        if self.crf_fast and not self.uses_crf:
            raise SettingsError("--crf-fast needs --refine crf or --refine par+crf")
        if self.low_threshold is not None and self.high_threshold is not None:
            _check_thresholds(self.low_threshold, self.high_threshold)
        if self.scales is not None:
            _check_scales(self.scales)

    @property
    def may_relabel(self) -> bool:
        """Whether the masks are relabelled, or may be."""
        return self.relabel != "none" and not self.ignore_uncertain

    @property
    def segment_folder(self) -> str | None:
        """The folder of segment files, if one is given."""
        return None if self.segments in ("none", "slic", "sam") else self.segments

    @property
    def vote_weight(self) -> float:
        """Weight of the segments' votes: superpixels are no objects, so that pixels keep a say."""
        if self.segment_weight is not None:
            return self.segment_weight
        return 0.5 if self.segments == "slic" else 1.0

    @property
    def refined(self) -> bool:
        """Whether the masks differ from what the scores alone say."""
        return self.refine != "none" or self.segments != "none"

    @property
    def feature_file(self) -> str | None:
        """The file of weights for the features, if one is given."""
        return None if self.feature_weights in (*NO_FILES, "auto", "trained") else self.feature_weights

    @property
    def uses_crf(self) -> bool:
        """Whether a CRF refines the masks."""
        return "crf" in self.refine

    @property
    def uses_par(self) -> bool:
        """Whether pixel-adaptive refinement runs."""
        return "par" in self.refine


@dataclass(frozen=True, kw_only=True)
class TrainSeg(TrainingSettings):
    """Settings of `toco train-seg`."""

    split: str | None = option(None, "Train only on the labelled images of this split; by default on all of them.")

    arch: str = option(
        "DeepLabV3Plus",
        "Network of segmentation-models-pytorch (DeepLabV3Plus, Unet, FPN ...); or linear, mlp or conv: a small head "
        "on the frozen features of make-labels --relabel, which is trained in minutes on a CPU.",
    )
    encoder: str = option(
        "resnet50",
        "Its encoder, by that library's name; 'tu-NAME' takes timm's NAME. Heads on features need none.",
    )
    weights: str = option(
        "pretrained", "Initial weights of the encoder: pretrained (download), none (random), or a .safetensors FILE."
    )
    batch_size: int = option(16, "Images per step, over all devices together.", minimum=2)
    image_size: int = option(512, "Side of the square training crops, a multiple of 32.", minimum=32)
    long_side: int | None = option(
        None,
        "Resize images so that their longer side has this length; by default 500/512 of the image size, as for VOC.",
        minimum=8,
        group=AUGMENTATION,
    )
    learning_rate: float = option(1e-4, "Learning rate of the encoder.", minimum=0)
    warmup_fraction: float = option(
        0.02,
        "Fraction of training over which the learning rate rises.",
        minimum=0,
        maximum=1,
        group=METHOD,
        old_names=("warmup",),
    )
    val_split: str | None = option(None, "Split to evaluate on; by default the data set's validation split.")
    use_masks: UseMasks = option("corrected", f"{USE_MASKS_HELP} Every batch has some of these images.")
    confidence_weighting: bool = option(
        False,
        "Weight each pixel's loss by the confidence of its label (needs make-labels --confidence).",
        old_names=("weigh_by_confidence",),
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        super().__post_init__()
        if self.image_size % 32:
            raise SettingsError(
                f"--image-size {self.image_size} is not a multiple of 32: use "
                f"{max(32, round(self.image_size / 32) * 32)}"
            )
        if self.confidence_weighting and self.uses_features:
            raise SettingsError(
                f"--arch {self.arch} learns from the probabilities of relabelling, not with --confidence-weighting"
            )

    @property
    def uses_features(self) -> bool:
        """Whether the student is a head on frozen features."""
        return self.arch in FEATURE_HEADS


@dataclass(frozen=True, kw_only=True)
class Predict(Parallel):
    """Settings of `toco predict`."""

    source: Literal["auto", "student", "decoder"] = option(
        "auto",
        "Network: the student of train-seg, or the decoder of train-cam; auto takes the student if it is trained.",
    )
    outputs: tuple[Literal["masks", "overlays", "numpy", "probabilities", "geotiff"], ...] = option(
        ("masks", "overlays"),
        "Files to write for each image: masks (palette PNG), overlays (the mask's colours on the image), numpy (class "
        "numbers, uint8), probabilities (of every class, float16), geotiff (the mask with the image's coordinates; "
        "needs the extra geo).",
        old_names=("write",),
    )
    window: int | None = option(
        None,
        "Segment images larger than this many pixels in overlapping square windows of this side. By default the whole "
        "image is resized to the size of the training images.",
        minimum=16,
    )
    batch_size: int | None = option(
        None,
        "Images of equal size, or windows, per forward pass; by default 8 on a GPU and 1 elsewhere.",
        minimum=1,
    )
    flip_tta: bool = option(
        True,
        "Test-time augmentation: also segment the horizontally flipped image. Takes twice as long and is slightly more "
        "accurate. Heads on features are trained without flips and always predict without them.",
        old_names=("mirror",),
    )
    scales: tuple[float, ...] = option((1.0,), "Image scales whose predictions are fused.", group=METHOD)
    crf: bool = option(False, "Refine the masks with a dense CRF.")
    crf_backend: CrfBackend = option("auto", CRF_BACKEND_HELP)

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        check_limits(self)
        _check_scales(self.scales)
        if not self.outputs:
            raise SettingsError("--outputs must name at least one kind of file")
        if self.window is not None and "probabilities" in self.outputs:
            raise SettingsError("--outputs probabilities does not work with --window: it needs the whole image")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Machine):
    """Settings of `toco evaluate`."""

    split: str | None = option(
        None,
        "Split to evaluate the networks on; by default the validation split. CAMs and pseudo masks are always "
        "evaluated on the images that they were made for.",
    )
    images: int | None = option(
        None,
        "Evaluate on at most this many images of a split, evenly spaced in its order; by default on all.",
        minimum=1,
    )

    def __post_init__(self) -> None:
        """Refuse values outside the limits.

        Raises:
            SettingsError: Names the option.
        """
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class Report(Evaluate):
    """Settings of `toco report`."""

    images: int | None = option(
        500,
        "Evaluate on at most this many images of a split, evenly spaced in its order; the table gives the number.",
        minimum=1,
    )
    gallery: int = option(
        24,
        "Images to show: the best, median and worst ones. Images are added, up to 60, until each class has three.",
        minimum=1,
    )
    compare: tuple[str, ...] = option(
        (),
        "Another RUN; the over-smoothing of its network is drawn beside this one's. Example: a run with "
        "--ptc-weight 0.",
    )


@dataclass(frozen=True, kw_only=True)
class View(Machine):
    """Settings of `toco view`."""

    background_threshold: float | None = option(
        None,
        "Background threshold of the CAM's own mask; by default that of the labels.",
        minimum=0,
        maximum=1,
        old_names=("background",),
    )
    count: int = option(6, "Images of the run to show if no IMAGE is given.", minimum=1)
    order: Literal["worst", "random"] = option(
        "worst", "Which images these are: those with the worst pseudo masks, ranked as in the report, or random ones."
    )
    seed: int = option(0, "Seed of --order random: another seed shows other images.", minimum=0)

    def __post_init__(self) -> None:
        """Refuse values outside the limits.

        Raises:
            SettingsError: Names the option.
        """
        check_limits(self)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Settings of `toco tile`."""

    size: int = option(512, "Side of a tile in pixels.", minimum=16)
    overlap: int = option(64, "Pixels that neighbouring tiles share.", minimum=0)
    class_property: str = option("class", "Property of the polygons of a GeoJSON that holds the class.")
    min_object_share: float = option(
        0.5,
        "A tile has the class of a polygon or part if it contains at least this share of it.",
        minimum=0.001,
        maximum=1,
    )
    min_tile_share: float = option(
        0.01,
        "A tile also has a class if polygons and parts of the class cover at least this share of the tile.",
        minimum=0,
        maximum=1,
    )
    outside: Literal["none", "unlabelled"] = option(
        "none",
        "Tiles of a labelled image in which no polygon or part lies: they show none of the classes (none), or nothing "
        "is known of them (unlabelled).",
    )
    val: tuple[str, ...] = option(
        (), "Name of an image whose tiles become the validation split; by default all tiles are for training."
    )

    def __post_init__(self) -> None:
        """Refuse contradictions.

        Raises:
            SettingsError: Names the options.
        """
        check_limits(self)
        if self.overlap >= self.size:
            raise SettingsError(f"--overlap {self.overlap} is not less than --size {self.size}: use a smaller one")


STAGES = ("train-cam", "make-labels", "train-seg")


@dataclass(frozen=True, kw_only=True)
class Run(PixelValues, Logging):
    """Settings of `toco run`; a stage that has the same option takes its value from here."""

    seed: int = option(0, "Random seed of all stages.", minimum=0)
    overwrite: Literal["nothing", "train-cam", "make-labels", "train-seg"] = option(
        "nothing",
        "Start again from this stage: the results of this stage and of the later ones are replaced. --overwrite "
        "without a value starts everything again.",
        alone="train-cam",
    )

    def __post_init__(self) -> None:
        """Refuse values outside the limits, and contradictions.

        Raises:
            SettingsError: Names the options.
        """
        check_limits(self)
        PixelValues.__post_init__(self)


def upgraded(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that an earlier version of toco wrote, under today's names and with today's values.

    Args:
        kind: The settings dataclass.
        values: Values by field name. Names that no version knows are kept, so that the caller can report them.

    Raises:
        SettingsError: An option that no longer exists has a value that it never had.
    """
    current = with_current_names(kind, values)
    if kind is MakeLabels and "crf" in current:  # until 0.1: off, full or fast, beside --refine
        crf, refine = current.pop("crf"), current.setdefault("refine", "none")
        if crf not in ("off", "full", "fast"):
            raise SettingsError(f"crf = {crf!r} is not a value of any version: use refine = 'none' or 'crf'")
        if crf != "off" and "crf" not in refine:
            current["refine"] = "par+crf" if refine == "par" else "crf"
        current["crf_fast"] = crf == "fast"
    return current


def from_values(kind: type, values: Mapping[str, Any]) -> Any:
    """Make settings from plain values, as JSON and TOML hold them: lists become tuples.

    Raises:
        SettingsError: A name is not a field of `kind`, or a value is out of range.
    """
    names = {one.name for one in fields(kind)}
    current = upgraded(kind, values)
    if unknown := sorted(current.keys() - names):
        raise SettingsError(f"this version of toco has no setting '{unknown[0]}'")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in current.items()})


def _check_thresholds(low: float, high: float) -> None:
    """Refuse thresholds that are not in order.

    Raises:
        SettingsError: Names both.
    """
    if not 0 <= low < high <= 1:
        raise SettingsError(f"--low-threshold {low} must be below --high-threshold {high}, both between 0 and 1")


def _check_scales(scales: tuple[float, ...]) -> None:
    if not scales or min(scales) <= 0:
        raise SettingsError("--scales must be one or more positive factors")
