"""`--format png`: one palette PNG per image, in the same folders as the images.

Pixels are class numbers: 0 background, 1..C classes, 255 ignored.
"""

from collections.abc import Sequence
from pathlib import Path

from data.atomic_write import atomic_write
from data.errors import ArtifactError
from data.image_files import escapes_folder
from data.output_place import check_file_names
from data.palette import palette_image
from data.written_folders import mark_as_written
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import command_for
from stages.runtime.monitor import Monitor


def export_png(labels: LabelFile, out: Path, monitor: Monitor, *, ids: Sequence[str] | None = None) -> list[Path]:
    """Write the mask of image 'a/b' to OUT/a/b.png, and return the files. The images are not needed.

    Args:
        labels: The masks.
        out: The folder.
        monitor: Receives progress.
        ids: The images whose masks are written; None for all.

    Raises:
        ArtifactError: An image id leads out of `out`, for example '../b'.
        SettingsError: The name of a file is too long, or is that of another file's folder.
    """
    ids = labels.ids if ids is None else ids
    for image_id in ids:
        if escapes_folder(image_id):
            raise ArtifactError(
                f"{labels.path} holds the image id {image_id!r}, which leads out of {out}: run "
                f"{command_for(labels.path)}"
            )
    files = [out / f"{image_id}.png" for image_id in ids]
    check_file_names(files)
    mark_as_written(out)
    monitor.start("writing masks", len(ids))
    for image_id, file in zip(ids, files, strict=True):
        with atomic_write(file) as temporary:
            palette_image(labels.read(image_id)).save(temporary, format="png")
        monitor.advance()
    monitor.finish()
    return files
