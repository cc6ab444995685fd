"""`toco plan`: the settings that fit a data set, a machine and a time, with reasons and predicted minutes.

In: the folder of a data set. Out: a plan; RUN/plan.toml if a run folder is given, which `toco run` then uses.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path

from data.dataset import Dataset
from data.errors import SettingsError
from data.pixel_facts import with_pixel_rule
from stages.config import NO_FILES, Run
from stages.option import Given
from stages.planning.budget import CPU_MINUTES
from stages.planning.fingerprint import fingerprint_of
from stages.planning.hardware import hardware_of
from stages.planning.planner import Plan, first_settings, make_plan
from stages.planning.weight_files import backbone_of_file, check_files
from stages.preflight.training import check_learnable
from stages.run_folder.run_config import PLAN, AllSettings, write_config
from stages.run_folder.run_data import open_data, training_pixels
from stages.runtime.monitor import Monitor
from stages.runtime.quick_imports import quick_imports


def plan(
    data: Path | Dataset,
    settings: AllSettings,
    given: Given,
    monitor: Monitor,
    *,
    budget: float | None = None,
    timed: bool = True,
    found: Mapping[str, float] | None = None,
) -> Plan:
    """Choose the settings that the user did not give.

    Args:
        data: The data set's folder, in any layout, or the open data set.
        settings: The given values, and defaults for all others.
        given: The recipe, and which values were given: they are kept.
        monitor: Receives progress.
        budget: Minutes that the run may take; by default two hours on a CPU, no limit on a GPU.
        timed: Whether steps are timed. Otherwise nothing is predicted, and nothing is reduced for the budget.
        found: Median share of an image that each class covers in pseudo masks of an earlier run, 0..1; used for the
            classes that no ground truth shows.

    Raises:
        DataError: The data set cannot be used.
        SettingsError: The weights are not available, or the settings contradict each other or the machine.
    """
    dataset = open_data(data, skip_bad=settings.cam.skip_bad)
    check_learnable(dataset, dataset.split(settings.cam.split), monitor)
    pixels = training_pixels(dataset, settings.cam)
    dataset = with_pixel_rule(dataset, pixels.rule)
    about_pixels = pixels.describe() or next(iter(pixels.describe_loss() or ()), None)
    facts = fingerprint_of(dataset, settings.cam.split)
    unmeasured = {
        name: cover for name, cover in (found or {}).items() if name in dataset.class_names and name not in facts.covers
    }
    fingerprint = replace(facts, bands=about_pixels, found=unmeasured)
    as_given = given
    settings, given = with_known_backbone(settings, given)
    recognised = given is not as_given
    hardware = hardware_of(settings.cam.device)
    first = first_settings(fingerprint, hardware, settings, given)
    if not timed:
        return make_plan(fingerprint, hardware, settings, given, recognised=recognised)
    check_files(first)
    with quick_imports():  # late: needs all of the training
        from stages.planning.measured_times import measure_times

    times = measure_times(dataset, first.cam, monitor)
    if budget is None and hardware.kind == "cpu":
        budget = CPU_MINUTES
    return make_plan(fingerprint, hardware, settings, given, times=times, budget=budget, recognised=recognised)


def with_known_backbone(settings: AllSettings, given: Given) -> tuple[AllSettings, Given]:
    """Take the backbone of a given file of weights, unless the backbone is given, too.

    Raises:
        SettingsError: The file does not tell its network.
    """
    fields = given.of("train_cam")
    if settings.cam.weights in NO_FILES or "backbone" in fields:
        return settings, given
    backbone = backbone_of_file(Path(settings.cam.weights).expanduser())
    known = Given(given.recipe, {**given.fields, "train_cam": fields | {"backbone"}})
    return replace(settings, cam=replace(settings.cam, backbone=backbone)), known


def write_plan(out: Path, found: Plan, config: Run) -> Path:
    """Write RUN/plan.toml and return its path."""
    minutes = {f"minutes-{stage}": round(value, 1) for stage, value in found.minutes.items()}
    about = {"recipe": found.recipe, "machine": found.hardware.line(), **minutes}
    write_config(
        out / PLAN,
        Path(found.fingerprint.root),
        config,
        found.settings.by_stage(),
        about,
        {one.option: one.reason for one in found.choices},
    )
    return out / PLAN


def check_fits(found: Plan) -> None:
    """Refuse a run that takes longer than it may.

    Raises:
        SettingsError: Gives the option that allows it.
    """
    if not found.fits and found.budget is not None:
        raise SettingsError(
            f"even the smallest plan takes about {ceil(found.total)} min, more than the limit of "
            f"{round(found.budget, 1):g} min: allow more with --time {ceil(1.1 * found.total)}m, use a GPU or fewer "
            "images, or give fewer steps yourself for a trial (--train-cam.iterations 50)"
        )
