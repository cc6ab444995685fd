"""Which network of a run segments images; without torch, so that a command can ask at once."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from data.errors import ArtifactError
from data.pixel_rule import PixelRule
from stages.config import Predict
from stages.run_folder.artifacts import StageFolder, finished, open_stage, read_config


def choose_network(run: Path, config: Predict) -> StageFolder:
    """Open the stage of the network that --source names: with auto, the student if it is trained.

    Raises:
        ArtifactError: The stage is not finished.
    """
    student = config.source == "student" or (config.source == "auto" and finished(run, "seg"))
    return open_stage(run, "seg" if student else "cam")


def rule_for_new_images(run: Path, rule: PixelRule) -> PixelRule:
    """Return the rule for images outside the data set: they may be brighter, unless --image-bits was given.

    Args:
        run: The run folder.
        rule: The rule for the data set.
    """
    if rule.bands:
        return rule
    with suppress(ArtifactError):  # RUN/seg alone can predict, too
        if read_config(run, "cam")["settings"]["image_bits"] != "auto":
            return rule
    return replace(rule, clip=rule.bits < 16)
