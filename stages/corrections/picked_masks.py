"""Which pseudo masks `toco pick` gave to people, in RUN/picked.json.

A mask that comes back as it was given is no correction, also if the pseudo masks were made again in the meantime.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from data.dataset import Mask
from data.errors import ArtifactError
from stages.corrections.correction_file import mask_digest
from stages.run_folder.saving import write_json

PICKED_FILE = "picked.json"


class PickedMasks:
    """The digests of all masks that were picked in a run."""

    def __init__(self, run: Path) -> None:
        """Read them.

        Raises:
            ArtifactError: The file is damaged.
        """
        self._path = run / PICKED_FILE
        self._digests: dict[str, list[str]] = {}  # by image id; of several picks
        if self._path.is_file():
            try:
                self._digests = {str(one): list(own) for one, own in json.loads(self._path.read_text()).items()}
            except (ValueError, AttributeError, TypeError) as error:
                raise ArtifactError(
                    f"{self._path} is damaged: delete it; 'toco import' then takes masks that no one changed since "
                    "make-labels ran again for corrections"
                ) from error

    def has(self, image_id: str, mask: Mask) -> bool:
        """Whether exactly this mask was picked for the image."""
        return mask_digest(mask) in self._digests.get(image_id, ())

    def add(self, masks: Iterable[tuple[str, Mask]]) -> None:
        """Remember masks by their image ids, and write the file."""
        for image_id, mask in masks:
            if not self.has(image_id, mask):
                self._digests.setdefault(image_id, []).append(mask_digest(mask))
        write_json(self._path, self._digests)
