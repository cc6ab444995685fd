"""`--format png`: one palette PNG an image, in folders as the image ids say.

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
    """Write the mask of image 'a/b' to OUT/a/b.png; the images themselves are not needed.

    Raises:
        ArtifactError: An id of the label file leads out of the folder.
    """
    for image_id in labels.ids:
        if escapes_folder(image_id):
            raise ArtifactError(f"{labels.path} names the image {image_id!r}, which leads out of {out}")
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
