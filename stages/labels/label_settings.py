"""Complete the settings of `toco make-labels` from those of the training.

This file does not import torch, so that commands can check the settings at once.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from data.errors import SettingsError
from stages.config import MakeLabels
from stages.run_folder.artifacts import StageFolder


def with_training_defaults(config: MakeLabels, trained: Mapping[str, Any]) -> MakeLabels:
    """Fill in the split, the image size and the scales from the training's settings where they are None."""
    return replace(
        config,
        split=config.split or trained["split"],
        image_size=config.image_size or trained["image_size"],
        scales=config.scales or tuple(trained["scales"]),
    )


CHOSEN = "chosen"  # in config.json: the settings that --relabel auto changed

# Where --relabel auto chooses a head that learns from single patches. No mask comes from the CAMs, so that one scale of
# them is enough. A CRF removes objects of few patches (bench/quality.md).
INSTANCES: Mapping[str, Any] = {"relabel": "mil", "refine": "none", "crf_fast": False, "scales": [1.0]}

# Where it keeps the masks of the CAMs, and their refinement harms them.
UNREFINED: Mapping[str, Any] = {"refine": "none", "crf_fast": False}


def with_chosen(config: MakeLabels, chosen: Mapping[str, Any]) -> MakeLabels:
    """Put in what --relabel auto chose, as it is stored in config.json."""
    values: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in chosen.items()}
    return replace(config, **values)


def used_settings(labels: StageFolder) -> MakeLabels:
    """Return the settings that the labels of a run were made with."""
    return with_chosen(labels.typed_settings(MakeLabels), labels.config.get(CHOSEN, {}))


def resolved(config: MakeLabels, trained: Mapping[str, Any], background: float | None = None) -> MakeLabels:
    """Fill in all thresholds.

    The paper uses 0.5 for one threshold, and 0.7 and 0.25 for two. Another background threshold moves both: the high
    one to 1.4 times it (at most 0.95), the low one to half of it.

    Args:
        config: Settings as the user gave them.
        trained: Settings of the training; its thresholds are the defaults.
        background: Background threshold that was chosen on images, now or before the run was resumed.

    Returns:
        The settings with numbers for high and low threshold. The background threshold is a number, too, but None for
        the decoder, which predicts the background itself.

    Raises:
        SettingsError: The low threshold is not below the high one. Says which of them are defaults.
    """
    asked = config.background_threshold if background is None else background
    assert asked != "auto"
    high, low = config.high_threshold, config.low_threshold
    threshold: float = trained["background_threshold"] if asked is None else asked
    differs = threshold != trained["background_threshold"]
    if high is None:
        high = min(1.4 * threshold, 0.95) if differs else trained["high_threshold"]
    if low is None:
        low = 0.5 * threshold if differs else trained["low_threshold"]
    if not low < high:
        default = f" (default for --background-threshold {threshold:g})" if differs else " (default)"
        raise SettingsError(
            f"--low-threshold {low:g}{default if config.low_threshold is None else ''} must be below "
            f"--high-threshold {high:g}{default if config.high_threshold is None else ''}"
        )
    used = None if config.source == "decoder" else threshold
    return replace(config, background_threshold=used, high_threshold=high, low_threshold=low, calibration_images=0)


def check_thresholds_in_order(config: MakeLabels, trained: Mapping[str, Any]) -> None:
    """Refuse thresholds that are not in order, before a background threshold is chosen on images.

    Args:
        config: Settings as the user gave them.
        trained: Settings of the training.

    Raises:
        SettingsError: The low threshold is not below the high one. Says which of them are defaults.
    """
    chosen_later = config.background_threshold == "auto" or config.calibration_images
    resolved(config, trained, trained["background_threshold"] if chosen_later else None)
