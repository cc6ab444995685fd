"""What all HDF5 files of a run have in common."""

from pathlib import Path
from typing import Any

import h5py

# The file format of HDF5 1.10 (2016): single chunks and large groups take less space than in older formats.
HDF5_VERSIONS = ("v110", "v110")


def open_hdf5(path: Path) -> h5py.File:
    """Open a file for reading.

    Raises:
        OSError: It cannot be opened; a `BlockingIOError` if another program has it open for writing.
    """
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if isinstance(error, BlockingIOError) or "unable to lock" not in str(error):
            raise
        # A network drive without locks. Files do not change once they have their final names.
        return h5py.File(path, "r", locking=False)


def dataset_names(group: h5py.Group) -> list[str]:
    """List the data sets below a group: relative paths, folder by folder in alphabetical order."""
    names: list[str] = []

    def visit(name: bytes, about: Any) -> None:
        if about.type == h5py.h5o.TYPE_DATASET:
            names.append(name.decode())

    # h5py's `items` opens each data set and is ten times slower.
    h5py.h5o.visit(group.id, visit, idx_type=h5py.h5.INDEX_NAME, order=h5py.h5.ITER_INC, info=True)
    return names
