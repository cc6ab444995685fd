import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import ArtifactError, DataError
from stages.exports.labelled_images import LabelledImages, classes_in_mask, open_labelled_images
from stages.labels.store import LabelFile
from stages.run_folder.artifacts import open_stage
from stages.runtime.monitor import SilentMonitor


def open_images(run: Path, data: Path | None = None) -> LabelledImages:
    labels = LabelFile(run / "labels" / "labels.h5", "masks")
    return open_labelled_images(open_stage(run, "labels"), labels, SilentMonitor(), data=data)


def test_labelled_images__have_file_and_mask(export_run: Any) -> None:
    images = open_images(export_run.run)
    assert images.split == "train"
    assert images.folder == (export_run.data / "images").resolve()
    assert images.class_names == export_run.class_names
    found = {image.id: image for image in images}
    assert found.keys() == export_run.masks.keys()
    for image_id, image in found.items():
        assert image.file == export_run.files[image_id]
        assert images.folder / image.file_name == image.file.resolve()
        np.testing.assert_array_equal(image.mask, export_run.masks[image_id])


def test_labelled_images__progress(export_run: Any, listener: Any) -> None:
    labels = LabelFile(export_run.run / "labels" / "labels.h5", "masks")
    monitor = listener()
    for count, _ in enumerate(open_labelled_images(open_stage(export_run.run, "labels"), labels, monitor)):
        assert monitor.steps == count
    assert monitor.calls == ["start", *["advance"] * len(export_run.masks), "finish"]


def test_open_labelled_images__moved_data(export_run: Any, tmp_path: Path) -> None:
    moved = export_run.data.rename(tmp_path / "moved")
    with pytest.raises(ArtifactError, match=r"data, the data set of .*, does not exist or is empty: .* with --data"):
        open_images(export_run.run)
    assert open_images(export_run.run, moved).folder == (moved / "images").resolve()


def test_open_labelled_images__a_missing_image(export_run: Any) -> None:
    export_run.files["a"].unlink()
    with pytest.raises(
        DataError, match=r"data lacks 1 of the 7 images that have a mask in .*labels.h5, first 'a': .* --data"
    ):
        open_images(export_run.run)


def test_open_labelled_images__an_image_without_mask_may_be_missing(labelled_run: Any) -> None:
    (labelled_run.data / "images" / "v1.png").unlink()
    assert [image.id for image in open_images(labelled_run.run)] == list(labelled_run.masks)


def test_open_labelled_images__other_classes(export_run: Any) -> None:
    (export_run.data / "classes.txt").write_text("dent\nother\n")
    with pytest.raises(ArtifactError, match="lacks the class 'Kratzer & Co'"):
        open_images(export_run.run)


def test_open_labelled_images__no_masks(make_export_run: Any) -> None:
    made = make_export_run({"a": np.zeros((8, 8), np.uint8)})
    from stages.labels.store import join_shards, label_attributes

    join_shards([], made.run / "labels", label_attributes(made.class_names, {}))
    with pytest.raises(ArtifactError, match=f"holds no masks: run toco make-labels {made.run} --overwrite"):
        open_images(made.run)


def test_labelled_images__a_mask_of_another_size(export_run: Any) -> None:
    Image.new("RGB", (7, 9)).save(export_run.files["empty"])
    with pytest.raises(
        DataError, match=r"the mask of 'empty' in .* is 33 x 32 \(height x width\), its image is 9 x 7: .* --data"
    ):
        list(open_images(export_run.run))


def test_labelled_images__a_value_that_is_not_a_class(make_export_run: Any) -> None:
    made = make_export_run({"a": np.full((8, 8), 4, np.uint8)})
    with pytest.raises(
        DataError, match=r"the mask of 'a' in .*labels.h5 has the value 4 in 64 pixels: allowed are 0 .*, 1 to 3"
    ):
        list(open_images(made.run))


def test_labelled_images__image_folder_of_the_layout_with_class_folders(labelled_run: Any) -> None:
    root = labelled_run.data.parent / "folders"
    for name, image_id in (("red", "a"), ("blue", "b")):
        (root / name).mkdir(parents=True)
        shutil.copy(labelled_run.data / "images" / f"{image_id}.png", root / name)
    from data.readers import open_dataset

    samples = open_dataset(root).split()
    labels = LabelFile(labelled_run.run / "labels" / "labels.h5", "masks")
    images = LabelledImages(labels=labels, samples=samples, split="train", monitor=SilentMonitor())
    assert images.folder == root.resolve()


def test_classes_in_mask__without_background_and_ignored_pixels() -> None:
    assert classes_in_mask(np.array([[0, 255, 3], [1, 3, 254]], np.uint8)) == [1, 3, 254]
    assert classes_in_mask(np.array([[0, 255]], np.uint8)) == []
