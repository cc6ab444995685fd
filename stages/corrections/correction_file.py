"""RUN/corrections.h5: the masks that people corrected, beside the pseudo masks and never overwritten by a stage.

    masks/<image id>    uint8 (h, w): 0 background, 1..C classes, 255 not judged; attributes `source`, `tool`,
                        `annotator`, `annotated` and `imported` (text, empty if not known), `classes`, `sha256`
    before/<image id>   uint8 (h, w): the pseudo mask that was corrected; missing if there was none

The file is written atomically, and read without torch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import h5py
import numpy as np

from data.dataset import IGNORE_INDEX, Mask, list_names
from data.errors import ArtifactError
from data.mask_agreement import distinct_values
from stages.run_folder.hdf5 import HDF5_VERSIONS, dataset_names, open_hdf5
from stages.run_folder.saving import atomic_stream, unreadable

CORRECTIONS = "corrections.h5"  # in the run folder
MASKS, BEFORE = "masks", "before"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a corrected mask comes from; empty where it is not known."""

    source: str  # path of the imported file or folder
    tool: str  # value of --from
    annotator: str
    annotated: str  # when, as the tool writes it
    imported: str  # local time, ISO 8601


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The corrected mask of one image."""

    id: str
    mask: Mask
    before: Mask | None  # the pseudo mask that was corrected
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class CorrectedMask:
    """One mask of the file, as the ground-truth mask of a sample."""

    file: Path
    id: str

    def __str__(self) -> str:
        """Name the mask in messages."""
        return f"the corrected mask of '{self.id}' in {self.file}"

    def read(self) -> Mask:
        """Return the mask (h, w).

        Raises:
            ArtifactError: The file is damaged.
        """
        return _read(self.file, MASKS, self.id)


class CorrectionFile:
    """The corrected masks of a run; empty if there is no file."""

    def __init__(self, run: Path, class_names: Sequence[str]) -> None:
        """List the masks.

        Args:
            run: The run folder.
            class_names: Foreground classes of the run.

        Raises:
            ArtifactError: The file is damaged, or of other classes.
        """
        self.path = run / CORRECTIONS
        self.class_names = tuple(class_names)
        self.classes: dict[str, tuple[int, ...]] = {}  # that each mask shows, ascending
        self._digests: dict[str, str] = {}
        if not self.path.is_file():
            return
        with _damaged(self.path), open_hdf5(self.path) as file:
            stored = tuple(str(name) for name in file.attrs["class_names"])
            for image_id in dataset_names(file[MASKS]):
                attributes = file[f"{MASKS}/{image_id}"].attrs
                self.classes[image_id] = tuple(int(number) for number in attributes["classes"])
                self._digests[image_id] = str(attributes["sha256"])
        if stored != self.class_names:
            raise ArtifactError(
                f"{self.path} has masks of the classes {list_names(stored, 5)}, the run has "
                f"{list_names(self.class_names, 5)}: move the file away, and import masks of these classes"
            )

    @property
    def digest(self) -> str:
        """SHA-256 over the ids and masks; empty without masks."""
        if not self._digests:
            return ""
        return hashlib.sha256(
            "\n".join(f"{one} {self._digests[one]}" for one in sorted(self._digests)).encode()
        ).hexdigest()

    def mask(self, image_id: str) -> CorrectedMask:
        """Return the source of one mask."""
        return CorrectedMask(file=self.path, id=image_id)

    def before(self, image_id: str) -> Mask | None:
        """Return the pseudo mask that was corrected; None if there was none.

        Raises:
            ArtifactError: The file is damaged.
        """
        with _damaged(self.path), open_hdf5(self.path) as file:
            if f"{BEFORE}/{image_id}" not in file:
                return None
        return _read(self.path, BEFORE, image_id)

    def provenance(self, image_id: str) -> Provenance:
        """Return where a mask comes from.

        Raises:
            ArtifactError: The file is damaged.
        """
        with _damaged(self.path), open_hdf5(self.path) as file:
            attributes = file[f"{MASKS}/{image_id}"].attrs
            return Provenance(**{name: str(attributes[name]) for name in Provenance.__dataclass_fields__})

    def add(self, corrections: Sequence[Correction]) -> None:
        """Write the file again with more masks; those of the same images are replaced.

        The pseudo mask of the first import stays: later ones may have been made with the correction.

        Raises:
            OSError: The file could not be written completely.
        """
        new = {one.id: one for one in corrections}
        with atomic_stream(self.path) as stream, h5py.File(stream, "w", libver=HDF5_VERSIONS) as product:
            product.attrs["class_names"] = list(self.class_names)
            product.attrs["ignore_index"] = IGNORE_INDEX
            if self.path.is_file():
                with _damaged(self.path), open_hdf5(self.path) as old:
                    for group in (MASKS, BEFORE):
                        for image_id in dataset_names(old[group]) if group in old else ():
                            if group == BEFORE or image_id not in new:
                                product.require_group(f"{group}/{image_id}".rpartition("/")[0])
                                old.copy(f"{group}/{image_id}", product, f"{group}/{image_id}")
            for one in new.values():
                stored = product.create_dataset(
                    f"{MASKS}/{one.id}", data=one.mask, compression="gzip", chunks=one.mask.shape
                )
                stored.attrs.update(asdict(one.provenance))
                stored.attrs["classes"] = np.array(classes_shown(one.mask), dtype=np.uint8)
                stored.attrs["sha256"] = mask_digest(one.mask)
                if one.before is not None and f"{BEFORE}/{one.id}" not in product:
                    product.create_dataset(
                        f"{BEFORE}/{one.id}", data=one.before, compression="gzip", chunks=one.before.shape
                    )
            stream.check()


def mask_digest(mask: Mask) -> str:
    """SHA-256 of the shape and values of a mask."""
    return hashlib.sha256(repr(mask.shape).encode() + mask.tobytes()).hexdigest()


def classes_shown(mask: Mask) -> tuple[int, ...]:
    """Return the classes 1..C that a mask shows, ascending."""
    return tuple(sorted(distinct_values(mask) - {0, IGNORE_INDEX}))


def _read(path: Path, group: str, image_id: str) -> Mask:
    with _damaged(path), open_hdf5(path) as file:
        mask: Mask = file[f"{group}/{image_id}"][()]
    return mask


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, RuntimeError, TypeError) as error:
        advice = "delete it and import the corrected masks again"
        raise unreadable(path, error, "a complete file of corrected masks", advice) from error
