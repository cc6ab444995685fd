"""`--format voc`: a folder tree in the format of Pascal VOC.

    JPEGImages/<name>.jpg                   the images
    SegmentationClass/<name>.png            palette PNGs: 0 background, 1..C classes, 255 ignored
    Annotations/<name>.xml                  class and bounding box of each object, see instances.py
    ImageSets/Segmentation/<split>.txt      one <name> per line
    classes.txt                             one class name per line: line c is class c
    labelmap.txt                            the colours of the classes, for CVAT and Datumaro, which read colours

Each <name> is a flat name, see flat_names.py. Readers of this format expect .jpg files and ignore the rotation in EXIF
data. An upright JPEG is therefore copied byte for byte; every other image is turned upright and saved as a JPEG.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from data.atomic_write import atomic_write
from data.images import is_upright_jpeg
from data.palette import palette_image
from stages.exports.components import Component
from stages.exports.flat_names import flat_name
from stages.exports.instances import InstanceFinder
from stages.exports.label_map import label_map_lines
from stages.exports.labelled_images import LabelledImage, LabelledImages
from stages.exports.upright_images import JPEG_QUALITY, save_upright
from stages.exports.xml_names import xml_name


def export_voc(images: LabelledImages, out: Path) -> list[Path]:
    """Write the folder tree, and return its files.

    Raises:
        DataError: An image is missing or unreadable, or its size differs from the size of its mask.
    """
    files = []
    names = []
    encoded = 0
    finder = InstanceFinder.of(images)
    for image in images:
        name = flat_name(image.id)
        names.append(name)
        picture = out / "JPEGImages" / f"{name}.jpg"
        mask = out / "SegmentationClass" / f"{name}.png"
        annotation = out / "Annotations" / f"{name}.xml"
        encoded += _write_jpeg(image, picture)
        with atomic_write(mask) as temporary:
            palette_image(image.mask).save(temporary, format="png")
        with atomic_write(annotation) as temporary:
            _annotation(picture.name, image, finder(image), images.class_names).write(temporary, encoding="utf-8")
        files += [picture, mask, annotation]
    if encoded:
        images.monitor.note(
            f"converted to JPEG (quality {JPEG_QUALITY}), as the format requires: {encoded} of {len(names)} images"
        )
    images.monitor.note(finder.summary)
    class_names = [xml_name(name) for name in images.class_names]  # as in the annotations
    lists = {
        out / "ImageSets" / "Segmentation" / f"{flat_name(images.split)}.txt": names,
        out / "classes.txt": class_names,
        out / "labelmap.txt": label_map_lines(class_names, ignored=True),
    }
    for path, lines in lists.items():
        with atomic_write(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return [*files, *lists]


def _write_jpeg(source: LabelledImage, target: Path) -> bool:
    """Copy an upright JPEG, or convert another image; return True if it was converted."""
    copied = is_upright_jpeg(source.file)
    with atomic_write(target) as temporary:
        if copied:
            shutil.copyfile(source.file, temporary)
        else:
            save_upright(source.file, temporary, target.suffix, source.pixels)
    return not copied


def _annotation(
    file_name: str, image: LabelledImage, objects: Sequence[Component], class_names: Sequence[str]
) -> ElementTree.ElementTree:
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", file_name)
    height, width = image.mask.shape
    size = ElementTree.SubElement(root, "size")
    for key, number in (("width", width), ("height", height), ("depth", 3)):
        _add(size, key, number)
    _add(root, "segmented", 1)
    for one in objects:
        root.append(_object(one, class_names[one.class_number - 1]))
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _object(component: Component, class_name: str) -> ElementTree.Element:
    element = ElementTree.Element("object")
    _add(element, "name", xml_name(class_name))
    for key, value in (("pose", "Unspecified"), ("truncated", 0), ("difficult", 0)):
        _add(element, key, value)
    height, width = component.pixels.shape
    box = ElementTree.SubElement(element, "bndbox")
    # VOC counts pixels from 1, and xmax and ymax are the last pixels inside the box.
    corners = (component.left + 1, component.top + 1, component.left + width, component.top + height)
    for key, number in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
        _add(box, key, number)
    return element


def _add(parent: ElementTree.Element, key: str, value: str | int) -> None:
    ElementTree.SubElement(parent, key).text = str(value)
