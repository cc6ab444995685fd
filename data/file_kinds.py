"""The kinds of image files: those that are read, and those that are recognised by their names and reported."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from os.path import splitext
from pathlib import Path

from PIL import features

AVIF = features.check("avif")  # a part that builds of Pillow may lack

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".jpg_large", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy"}
    | ({".avif"} if AVIF else set())
)

# Contents of a file that Pillow reads; its suffix may name another format. The others are in data/band_files.py.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", *(("AVIF",) if AVIF else ()))
FORMAT_NAMES = "JPEG, PNG, BMP, TIFF, WebP, AVIF or NumPy"

# Program -> suffixes of pictures that are not read and that it converts. Animations would lose all but one picture, and
# camera, medical and measured data have no standard range of brightness.
PICTURES = {
    "pillow-heif": (".heic", ".heif", ".hif"),
    "ImageMagick": (
        *(".gif", ".apng", ".avif", ".avifs", ".jp2", ".j2k", ".jpf", ".jpx", ".jpm", ".j2c", ".jxl", ".jxr", ".jbig2"),
        *(".psd", ".psb", ".xcf", ".tga", ".pcx", ".ppm", ".pgm", ".pbm", ".pnm"),
        *(".dib", ".qoi", ".dds", ".exr", ".hdr", ".pfm", ".sgi", ".ras"),
    ),
    "rawpy": (
        *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".dng", ".arw", ".sr2", ".srf", ".orf", ".rw2", ".raf", ".pef"),
        *(".srw", ".rwl", ".3fr", ".iiq", ".x3f"),
    ),
    "pydicom": (".dcm", ".dicom", ".ima"),
    "nibabel": (".nii", ".mgz"),
    "SimpleITK": (".mha", ".mhd", ".nrrd"),
    "OpenSlide": (".svs", ".ndpi", ".scn", ".mrxs", ".vms", ".bif"),
    "bioio": (".czi", ".lif", ".nd2", ".oib", ".oif"),
    "GDAL": (".ecw", ".sid", ".vrt"),
    "astropy": (".fits", ".fit"),
}
# The same for files that usually lie beside photographs: documents, drawings, videos, and arrays; see `split_kinds`.
OTHERS = {
    "FFmpeg": (
        *(".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".wmv", ".flv", ".mpg", ".mpeg", ".3gp", ".mts", ".m2ts"),
        ".ogv",
    ),
    "NumPy": (".npy", ".npz"),
    "Inkscape": (".svg", ".svgz", ".eps", ".pdf"),
    "GIMP": (".ico",),
    "DjVuLibre": (".djvu",),
}
PROGRAM_OF = {
    suffix: program
    for program, suffixes in {**PICTURES, **OTHERS}.items()
    for suffix in suffixes
    if suffix not in IMAGE_SUFFIXES - {".npy"}
}


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case, with its dot."""
    return splitext(name.lower())[1]


def split_kinds(found: Mapping[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """Split files into images that are read, and pictures and videos that are not.

    NumPy arrays are images where there are no other images. Beside others they are features, masks or scores.
    """
    names = [name for name in found if suffix_of(name) in IMAGE_SUFFIXES]
    pictures = [name for name in names if suffix_of(name) != ".npy"]
    read = {name: found[name] for name in pictures or names}
    return read, {name: path for name, path in found.items() if name not in read}


def is_unread_picture(name: str) -> bool:
    """Tell from a file's name whether it is a picture of a kind that is not read."""
    return PROGRAM_OF.get(suffix_of(name)) in PICTURES


def count_unread(names: Collection[str]) -> str:
    """Count files by their kinds, for example '6 .heic and 1 .gif files', the most frequent kind first."""
    kinds = [f"{count} {suffix}" for suffix, count in Counter(map(suffix_of, names)).most_common()]
    told = " and ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
    return f"{told} file{'s' if len(names) > 1 else ''}"


def conversion_advice(names: Iterable[str]) -> str:
    """Say how to convert files, for example 'save as JPEG or PNG (.heic with pillow-heif)'."""
    kinds = dict.fromkeys(map(suffix_of, names))
    return f"save as JPEG or PNG ({', '.join(f'{suffix} with {PROGRAM_OF[suffix]}' for suffix in kinds)})"


def describe_unread(names: Collection[str]) -> str:
    """Count files and say how to convert them.

    Args:
        names: At least one name with a suffix of `PROGRAM_OF`.
    """
    return f"{count_unread(names)} {'are' if len(names) > 1 else 'is'} not read: {conversion_advice(names)}"
