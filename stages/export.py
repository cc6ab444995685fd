"""`toco export`: pseudo masks as ordinary picture files.

In: RUN/labels. Out: a folder with one palette PNG an image, in folders as the image ids say.
"""

from pathlib import Path

from data.images import leads_out
from stages.artifacts import open_stage
from stages.monitor import Monitor
from stages.palette import palette_image
from stages.store import LabelFile
from stages.whole_files import ArtifactError, whole_file

FORMATS = ("png",)


def export(run: Path, out: Path, monitor: Monitor, *, format: str = "png", overwrite: bool = False) -> list[Path]:
    """Write the masks of RUN/labels/labels.h5 as picture files.

    Args:
        run: A run folder in which `toco make-labels` finished.
        out: Folder to write to; the mask of image 'a/b' becomes a/b.png below it.
        monitor: Told of progress.
        format: png: pixels are class numbers (0 background, 255 ignored), colours are PASCAL VOC's.
        overwrite: Write into a folder that holds files already; those of other names stay.

    Returns:
        The files.

    Raises:
        ValueError: The format is unknown, or the folder is not empty.
        ArtifactError: RUN/labels is not finished, or damaged.
    """
    if format not in FORMATS:
        raise ValueError(f"--format {format!r} is not known: choose one of {', '.join(FORMATS)}")
    labels = LabelFile(open_stage(run, "labels").path / "labels.h5", "masks")
    if not overwrite and out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty: give another folder, or --overwrite to write into it")
    for image_id in labels.ids:
        if leads_out(image_id):
            raise ArtifactError(f"{labels.path} names the image {image_id!r}, which leads out of {out}")
    files = []
    monitor.start("writing masks", len(labels.ids))
    for image_id in labels.ids:
        file = out / f"{image_id}.{format}"
        with whole_file(file) as temporary:
            palette_image(labels.read(image_id)).save(temporary, format=format)
        files.append(file)
        monitor.advance()
    monitor.finish()
    return files
