"""The Python API: the same options, defaults and errors as the command line, and the same results."""

import inspect
import json
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

import toco_cli as toco
import toco_cli.planned
from stages.config import TrainCam
from toco_cli import api
from toco_cli.commands import app

COMMANDS: dict[str, Any] = dict(getattr(get_command(app), "commands", {}))
FUNCTIONS = {  # and the command of each, where that has another name
    **dict.fromkeys(
        ("check", "run", "train_cam", "make_labels", "train_seg", "evaluate", "report", "predict", "export", "tile")
    ),
    **{"pick": None, "join": None, "import_masks": "import"},
}
# What only the terminal has: how results are printed, other forms of an argument, and commands within a command.
OF_THE_TERMINAL = {"quiet", "json", "settings_file", "write_labels", "sweep"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions__have_the_options_of_the_command(name: str) -> None:
    parameters = COMMANDS[FUNCTIONS[name] or name.replace("_", "-")].params
    options = {one.name for one in parameters} - OF_THE_TERMINAL - {"help"}
    stages = {one.partition("__")[0] for one in options if "__" in one}
    expected = {one for one in options if "__" not in one} | stages
    signature = inspect.signature(getattr(toco, name))
    assert set(signature.parameters) == expected | {"progress", "monitor"}
    defaults = {one.name: one.default for one in parameters if one.name in expected and not one.required}
    for option, default in defaults.items():
        shown = signature.parameters[option].default
        if option not in ("data", "out", "recipe", "paths"):
            assert (list(shown) if isinstance(shown, tuple) else shown) == default, option


def test_names__are_all_there() -> None:
    assert sorted(toco.__all__) == sorted(toco.MODULES)
    assert all(getattr(toco, name) is not None for name in toco.__all__)
    assert set(toco.__all__) <= set(dir(toco))
    with pytest.raises(AttributeError, match="toco has no 'trian_cam'"):
        toco.trian_cam  # noqa: B018


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"iteration": 3}, r"^toco\.train_cam has no option 'iteration': did you mean 'iterations'\?$"),
        ({"resum": True}, "has no option 'resum': did you mean 'resume'"),
        ({"iterations": "3"}, r"^toco\.train_cam got iterations='3': it must be int$"),
        ({"device": "gpu"}, r"got device='gpu': it must be Literal\['auto', 'cpu', 'cuda', 'mps'\]"),
        ({"iterations": 0}, "^--iterations is 0: it must be at least 1$"),
        ({"recipe": "city"}, "there is no recipe 'city': choose one of "),
        ({"weights": Path("none.safetensors")}, "none.safetensors"),
        ({}, "/nowhere"),
    ],
)
def test_train_cam__reports_what_cannot_work(call: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(toco.UserError, match=message) as error:
        toco.train_cam(tmp_path / "nowhere", tmp_path / "run", **call)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"train_cam": {"iteration": 3}}, r"^toco\.train_cam has no option 'iteration': did you mean 'iterations'"),
        ({"train_seg": {"image_size": 33}}, "^train-seg: --image-size 33 is not a multiple of 32"),
        ({"train_seg": 3}, r"train_seg=3 is not a mapping of options"),
        ({"iterations": 3}, r"^toco\.run has no option 'iterations'"),
    ],
)
def test_run__says_whose_option_is_wrong(call: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(toco.SettingsError, match=message):
        toco.run(tmp_path, tmp_path / "run", **call)


def test_settings__shared_own_recipes_old_names_and_shorthands() -> None:
    made = api._settings("run", {"seed": 3, "device": "cpu"}, "coco", {"train_cam": {"seed": 4, "scales": [1.0]}})
    assert (made["config"].seed, made["train_cam"].seed, made["train_seg"].seed) == (3, 4, 3)
    assert {made[name].device for name in ("train_cam", "make_labels", "train_seg")} == {"cpu"}
    assert made["train_cam"].iterations == 80_000
    assert made["train_cam"].scales == (1.0,)
    assert made["make_labels"].refine == "crf"
    assert api._settings("train_cam", {"encoder_start": 0.5})["config"] == TrainCam(freeze_encoder_until=0.5)
    assert api._settings("make_labels", {"crf": True})["config"].refine == "crf"
    assert api._settings("make_labels", {"crf": False})["config"].refine == "none"
    with pytest.raises(toco.SettingsError, match="crf is short for refine='crf': give one of them"):
        api._settings("make_labels", {"crf": True, "refine": "par"})


def test_stages__are_run_one_by_one_with_a_monitor(
    pictures: Path, cam_settings: Callable[..., TrainCam], trained_run: Path, tmp_path: Path
) -> None:
    heard: list[str] = []
    losses: list[float] = []

    class Callback(toco.SilentMonitor):
        def start(self, title: str, total: int, done: int = 0, unit: str = "images") -> None:
            heard.append(f"{title}: {total} {unit}")

        def advance(self, steps: int = 1, **figures: float) -> None:
            losses.extend([figures["loss"]] if "loss" in figures else [])

    options = {name: value for name, value in vars(cam_settings()).items() if value != vars(TrainCam())[name]}
    run = toco.train_cam(str(pictures), tmp_path / "run", recipe="voc", monitor=Callback(), **options)
    assert run == tmp_path / "run"
    assert heard == ["training the CAM network: 4 steps"]
    assert len(losses) == 4
    same = (run / "cam/model.safetensors").read_bytes() == (trained_run / "cam/model.safetensors").read_bytes()
    assert same  # as the command line's settings give
    verdict = run / "labels" / "verdict.json"
    toco.make_labels(run, relabel="none", device="cpu", workers=0)
    assert json.loads(verdict.read_text())["measured"] == 8
    verdict.unlink()
    scores = toco.evaluate(run, device="cpu")
    assert verdict.is_file()
    assert [column.name for column in scores.columns] == ["CAM", "pseudo masks", "decoder"]


def test_functions__print_nothing_but_warnings(
    pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = toco.check(pictures)
    assert found.dataset.class_names == ("red", "blue")
    assert capfd.readouterr() == ("", "")
    toco.check(pictures, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "images" in err


def test_train_seg__leaves_a_verdict_on_the_student(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole_run, run)
    verdict = run / "labels" / "verdict.json"
    verdict.unlink()
    toco.train_seg(run, resume=True)  # finished already
    assert json.loads(verdict.read_text())["classes"][0]["evidence"]["student_images"] == 2


@pytest.mark.parametrize("options", [{}, {"source": "decoder"}, {"window": 40}])
def test_load__gives_the_pixels_of_predict(
    options: dict[str, Any], whole_run: Path, pictures: Path, tmp_path: Path
) -> None:
    paths = [pictures / "images" / f"{name}.jpg" for name in ("a", "b", "d")]  # two sizes
    written = toco.predict(whole_run, paths, tmp_path, outputs=["numpy"], device="cpu", **options)
    network = toco.load(whole_run, device="cpu", **options)
    masks = network.predict(paths)
    for mask, file in zip(masks, written["numpy"], strict=True):
        np.testing.assert_array_equal(mask, np.load(file))
    assert len({mask.shape for mask in masks}) == 2
    with Image.open(paths[0]) as picture:
        np.testing.assert_array_equal(network.predict(picture), masks[0])
        np.testing.assert_array_equal(network.predict(np.asarray(picture)), masks[0])
    assert network.class_names == ("red", "blue")


def test_load__probabilities(whole_run: Path, pictures: Path, tmp_path: Path) -> None:
    image = pictures / "images/b.jpg"
    written = toco.predict(whole_run, image, tmp_path, outputs=["probabilities"], device="cpu")
    network = toco.load(whole_run, device="cpu")
    probabilities = network.probabilities(image)
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(probabilities.astype(np.float16), np.load(written["probabilities"][0]))
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    with pytest.raises(toco.SettingsError, match="do not work with window"):
        toco.load(whole_run, device="cpu", window=32).probabilities(image)


def test_load__warns_of_values_of_another_scale(whole_run: Path) -> None:
    network = toco.load(whole_run, device="cpu")
    image = np.random.default_rng(0).integers(0, 4096, (40, 40, 3)).astype(np.uint16)
    with pytest.warns(UserWarning, match=r"^1 of 1 images is nearly black for the network \(first image 1\)"):
        network.predict(image)
    network.predict(image * 16)  # warnings are errors


def test_load__refuses_what_is_no_image(whole_run: Path, tmp_path: Path) -> None:
    network = toco.load(whole_run, device="cpu")
    with pytest.raises(toco.DataError, match=r"array of shape \(4, 4, 3\) and type float64; give"):
        network.predict(np.zeros((4, 4, 3)))
    with pytest.raises(toco.DataError, match=r"nothing\.png"):
        network.predict(str(tmp_path / "nothing.png"))
    assert network.predict([]) == []
    with pytest.raises(toco.ArtifactError, match="there is no run folder"):
        toco.load(tmp_path / "nothing")
    with pytest.raises(toco.SettingsError, match=r"toco\.load has no option 'network'|no option 'network'"):
        toco.load(whole_run, network="cam")


def test_pseudo_masks__in_workers_and_with_a_transform(whole_run: Path) -> None:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    pairs = toco.PseudoMasks(whole_run)
    assert (len(pairs), pairs.class_names) == (8, ("red", "blue"))
    assert [path.stem for path in pairs.paths] == [name.rpartition("/")[2] for name in pairs.ids]
    image, mask = pairs[0]
    assert (image.dtype, image.shape[1:], mask.dtype) == (torch.uint8, mask.shape, torch.int64)
    again = pickle.loads(pickle.dumps(pairs))
    assert torch.equal(again[3][1], pairs[3][1])
    resized = toco.PseudoMasks(whole_run, v2.Resize((32, 32)))
    loader = DataLoader(resized, batch_size=4, num_workers=2)
    shapes = [(tuple(images.shape), tuple(masks.shape)) for images, masks in loader]
    assert shapes == [((4, 3, 32, 32), (4, 32, 32))] * 2
    with pytest.raises(toco.ArtifactError, match="has no probabilities, because its masks were not relabelled"):
        toco.PseudoMasks(whole_run, probabilities=True)


def test_pseudo_masks__warns_of_changed_data(
    whole_run: Path, draw_pictures: Callable[[Path], Path], tmp_path: Path
) -> None:
    data = draw_pictures(tmp_path / "data")
    table = data / "labels.csv"
    table.write_text(table.read_text().replace("a.jpg,red,", "a.jpg,blue,"))
    with pytest.warns(UserWarning, match="data has other images or labels than"):
        toco.PseudoMasks(whole_run, data=data)


PYTHON_GUIDE = Path(__file__).parents[2] / "docs/how-to/use-from-python.md"
NEEDED_BY_EXAMPLES = ("fiftyone", "label_studio_sdk")  # and a server, or a browser


def test_python_guide__its_code_runs(
    whole_run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the training, which would need pretrained weights: its settings are made, and a finished run is given."""
    import stages.make_labels
    import stages.report
    import stages.run
    import stages.train_cam
    import stages.train_seg

    made: list[tuple[Any, ...]] = []

    def finished_at_once(run_of: Callable[..., Path]) -> Callable[..., Path]:
        def stage(*arguments: Any, **options: Any) -> Path:
            made.append((*arguments, *options.values()))
            monitor = next(one for one in arguments if hasattr(one, "advance"))
            if not (run := run_of(*arguments)).exists():
                shutil.copytree(whole_run, run)
            monitor.start("training", 1)
            monitor.advance(1, loss=0.5)
            return run

        return stage

    for module in (stages.train_cam, stages.run):  # (data, run, ...)
        monkeypatch.setattr(module, module.__name__.split(".")[1], finished_at_once(lambda data, run, *_: run))
    for module in (stages.make_labels, stages.train_seg, stages.report):  # (run, ...)
        monkeypatch.setattr(module, module.__name__.split(".")[1], finished_at_once(lambda run, *_: run))
        if module is not stages.report:  # which would find the stage finished
            check = f"stages.preflight.checks.before_{module.__name__.split('.')[1]}"
            monkeypatch.setattr(check, lambda run, config, *_, **options: None)
    monkeypatch.setattr(
        toco_cli.planned, "with_plan", lambda data, out, config, settings, *_, **options: (config, settings)
    )
    monkeypatch.setitem(sys.modules, "toco", toco)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "photos")
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PYTHON_GUIDE.read_text(encoding="utf-8"), re.M | re.S):
        code = compile(block, PYTHON_GUIDE.name, "exec")
        if not any(package in block for package in NEEDED_BY_EXAMPLES):
            exec(code, names)
    settings = [one for call in made for one in call if is_dataclass(one)]
    assert {type(one).__name__ for one in settings} >= {"Run", "TrainCam", "MakeLabels", "TrainSeg", "Report"}
    assert names["monitor"].losses == [0.5]
    assert len(names["masks"]) == 2
    assert names["mask"].shape == (4, 64, 64)  # of the last batch
