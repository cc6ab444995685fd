"""Notice that a file has changed since it was used."""

from collections.abc import Collection, Mapping
from pathlib import Path

from data.errors import ArtifactError
from stages.run_folder.artifacts import file_digest, read_config

SEGMENT_FILES = "segment_files"  # of RUN/labels/config.json


def file_stamp(path: Path) -> dict[str, int]:
    """Size and time of the last change: where a wrong alarm only costs time."""
    about = path.stat()
    return {"bytes": about.st_size, "modified": about.st_mtime_ns}


def file_digests(files: Mapping[str, Path]) -> dict[str, str]:
    """Return the digests of files, by the ids of their images. Copies of the files have the same."""
    return {image_id: file_digest(path) for image_id, path in files.items()}


def check_same_segments(run: Path, files: Mapping[str, Path], made: Collection[str]) -> None:
    """Refuse to resume if the segments of finished masks have changed; those of the other images may.

    Args:
        run: A run folder in which `toco make-labels` was begun.
        files: The present segment files, by image id.
        made: Ids of the images whose masks were made with their segments.

    Raises:
        ArtifactError: Says what to do.
    """
    before = read_config(run, "labels").get(SEGMENT_FILES)
    if before is None:  # begun by an earlier version
        return
    now = file_digests({one: path for one, path in files.items() if one in made})
    changed = sorted(one for one in made if before.get(one) != now.get(one))
    if changed:
        raise ArtifactError(
            f"the segment files of {len(changed)} images, first '{changed[0]}', have changed since the masks of these "
            f"images in {run / 'labels'} were made: restore the earlier files, or start again with --overwrite "
            "(of 'toco run': --overwrite make-labels)"
        )
