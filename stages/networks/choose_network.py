"""Which network of a run segments images; without torch, so that a command can ask at once."""

from pathlib import Path

from stages.config import Predict
from stages.run_folder.artifacts import StageFolder, finished, open_stage


def choose_network(run: Path, config: Predict) -> StageFolder:
    """Open the stage of the network that --source names: with auto, the student if it is trained.

    Raises:
        ArtifactError: The stage is not finished.
    """
    student = config.source == "student" or (config.source == "auto" and finished(run, "seg"))
    return open_stage(run, "seg" if student else "cam")
