"""`--format png`: one palette PNG per image, in the same folders as the images.

Pixels are class numbers: 0 background, 1..C classes, 255 ignored.
"""

from pathlib import Path

from data.atomic_write import atomic_write
from data.errors import ArtifactError
from data.images import escapes_folder
from data.palette import palette_image
from stages.labels.store import LabelFile
from stages.runtime.monitor import Monitor


def export_png(labels: LabelFile, out: Path, monitor: Monitor) -> list[Path]:
    """Write the mask of image 'a/b' to OUT/a/b.png, and return the files. The images are not needed.

    Raises:
        ArtifactError: An image id leads out of `out`, for example '../b'.
    """
    for image_id in labels.ids:
        if escapes_folder(image_id):
            raise ArtifactError(
                f"{labels.path} holds the image id {image_id!r}, which leads out of {out}: "
                "run 'toco make-labels --overwrite' again"
            )
    files = []
    monitor.start("writing masks", len(labels.ids))
    for image_id in labels.ids:
        file = out / f"{image_id}.png"
        with atomic_write(file) as temporary:
            palette_image(labels.read(image_id)).save(temporary, format="png")
        files.append(file)
        monitor.advance()
    monitor.finish()
    return files
