"""Which settings a command takes where the user gave none: those of a begun run, of its plan, or of a new plan."""

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.command_line import as_command
from data.errors import SettingsError
from stages.config import CAM_RECIPES, RECIPE_OF_DEFAULTS, MakeLabels, Parallel, Run, TrainCam, TrainSeg
from stages.option import Given, flag
from stages.planning.budget import value_text
from stages.planning.recipes import DEFAULT, ORDER
from stages.runtime.launch import is_local_child, is_rank_zero, started_by
from stages.runtime.monitor import Monitor

if TYPE_CHECKING:
    from data.dataset import Dataset
    from stages.planning.planner import Plan
    from stages.run_folder.run_config import AllSettings

RECIPE_CHOICES = {**dict.fromkeys(ORDER), **CAM_RECIPES}  # planned ones, and published settings
# The published settings of the student are the defaults.
STUDENT_RECIPES: dict[str, dict[str, Any] | None] = {**dict.fromkeys(ORDER), **{name: {} for name in CAM_RECIPES}}


def default_run(data: Path) -> Path:
    """Return the run folder of a data set, if none is given."""
    return Path("runs") / data.resolve().name


def warn_of_run_settings(run: Path, config: MakeLabels, monitor: Monitor) -> None:
    """Warn of the settings in RUN/config.toml that `toco make-labels RUN` does not use, because it has defaults.

    Raises:
        ArtifactError: The file is damaged.
    """
    from stages.labels.label_settings import with_training_defaults
    from stages.run_folder.artifacts import begun_stage
    from stages.run_folder.run_config import CONFIG, stored_settings

    stored = stored_settings(run / CONFIG)
    if stored is None or not is_rank_zero():
        return
    of_machine = {one.name for one in fields(Parallel)}
    used = with_training_defaults(config, begun_stage(run, "cam").settings)
    left_out = [
        f"{flag(one.name)} {value_text(value)}"
        for one in fields(config)
        if one.name not in of_machine
        and getattr(config, one.name) == one.default
        and (value := stored.stages["make-labels"].get(one.name)) not in (None, one.default, getattr(used, one.name))
    ]
    if left_out:
        monitor.warn(
            f"{run / CONFIG} has {', '.join(left_out)}, which this command does not use unless you give it: "
            f"{as_command('run', '--config', run / CONFIG, '--overwrite', 'make-labels')} uses all settings of the run"
        )


def is_planned(given: Given) -> bool:
    """Whether the plan chooses what is not given: unless --recipe names published settings."""
    return given.recipe not in CAM_RECIPES


def new_plan(
    data: "Path | Dataset",
    settings: "AllSettings",
    given: Given,
    monitor: Monitor,
    *,
    time: str | None = None,
    timed: bool = True,
    earlier: Path | None = None,
) -> "Plan":
    """Make a plan; see `stages.plan.plan`.

    Args:
        data: The data set.
        settings: The given values, and defaults for all others.
        given: The recipe, and which values were given.
        monitor: Receives progress.
        time: The time that the run may take, as text: '2h'.
        timed: Whether steps are timed.
        earlier: A run folder; if it has masks, they tell how large objects are where there is no ground truth.

    Raises:
        UserError: The data set, the weights or the settings cannot work.
    """
    from stages.plan import plan as stage
    from stages.planning.budget import minutes_of

    budget = None if time is None else minutes_of(time)
    found = {} if earlier is None else found_covers(earlier)
    return stage(data, settings, given, monitor, budget=budget, timed=timed, found=found)


def found_covers(run: Path) -> dict[str, float]:
    """Return the median share of an image that each class covers in the masks of a run, 0..1, as its verdict says."""
    from stages.verdict.judged_run import read_verdict

    verdict = read_verdict(run)
    return {one.name: one.evidence.cover for one in verdict.classes if one.evidence.cover} if verdict else {}


def with_plan(
    data: Path,
    out: Path,
    config: Run,
    settings: "AllSettings",
    given: Given,
    monitor: Monitor,
    *,
    time: str | None = None,
    show: "Callable[[Plan], None] | None" = None,
) -> "tuple[Run, AllSettings]":
    """Complete the settings of `toco run`.

    A run that was begun keeps its settings, and a plan that is stored in the run folder is used. Otherwise a new plan
    is made, shown and stored there. Published recipes are not planned.

    Args:
        data: The data set's folder.
        out: The run folder.
        config: Settings of the run.
        settings: The given values, and defaults for all others.
        given: The recipe, and which values were given.
        monitor: Receives progress.
        time: The time that the run may take, as text.
        show: Shows a new plan.

    Raises:
        UserError: The run cannot work, or does not fit the time.
    """
    if not is_planned(given):
        if time is not None:
            raise SettingsError(f"--recipe {given.recipe} has published settings, which no --time changes: give one")
        return config, settings
    from stages.plan import check_fits, write_plan
    from stages.planning.planner import needs_timing
    from stages.planning.weight_files import check_files
    from stages.run import before_run
    from stages.run_folder.run_config import PLAN, begun_or_planned, with_begun_stages

    anew = config.overwrite == "train-cam"
    # A process that toco started for another device repeats this command, and takes the plan of the first one.
    other_plan = (anew or time is not None or given.recipe is not None) and not is_local_child()
    stored = begun_or_planned(out, anew=anew, other_plan=other_plan)
    if stored is not None:
        unused = [name for name, value in (("--recipe", given.recipe), ("--time", time)) if value is not None]
        if unused and not is_local_child():
            monitor.warn(
                f"{out} keeps the settings in {stored.path}: {' and '.join(unused)} "
                f"change{'s' if len(unused) == 1 else ''} nothing, unless you start again with --overwrite"
            )
        if stored.path.name == PLAN and not stored.is_for(data) and is_rank_zero():
            monitor.warn(
                f"{stored.path} is a plan for {stored.data}: to plan for {data}, give --recipe {DEFAULT} or another "
                "run folder"
            )
        return stored.fill(config, settings, given)
    if not anew:
        settings, given = with_begun_stages(out, settings, given)
    dataset = before_run(data, out, config, settings, monitor)
    several = config.nodes > 1 or started_by().starter != ""  # each process plans, and all must choose the same
    if several and time is not None and is_rank_zero():
        monitor.warn("--time is not used with several processes or machines that start together: nothing is timed")
    timed = (needs_timing(given) or time is not None) and not several
    found = new_plan(dataset, settings, given, monitor, time=time, timed=timed, earlier=out)
    if not timed and not several:
        check_files(found.settings)
    if show is not None and is_rank_zero():
        show(found)
    check_fits(found)
    if is_rank_zero():
        write_plan(out, found, config)
    return config, found.settings


def with_planned_cam(
    dataset: "Path | Dataset", run: Path, config: TrainCam, given: Given, monitor: Monitor, *, resume: bool
) -> TrainCam:
    """Complete the settings of `toco train-cam`.

    Nothing is timed, so that all processes choose the same. Says in one line what was chosen.

    Args:
        dataset: The open data set, or its folder if there is nothing to do.
        run: The run folder.
        config: The given values, and defaults for all others; those of the interrupted training if one is resumed.
        given: The recipe, and which values were given.
        monitor: Gets the line.
        resume: Whether to resume a training, if one was begun.

    Raises:
        UserError: The data set or the settings cannot work.
    """
    from stages.run_folder.artifacts import in_use
    from stages.run_folder.run_config import AllSettings

    if isinstance(dataset, Path) or not is_planned(given) or (resume and in_use(run / "cam")):
        return config
    own = Given(given.recipe, {"train_cam": given.of("config")})
    found = new_plan(dataset, AllSettings(cam=config), own, monitor, timed=False, earlier=run)
    _say_chosen("train-cam", found, monitor)
    return found.settings.cam


def with_planned_seg(
    dataset: "Path | Dataset | None", run: Path, config: TrainSeg, given: Given, monitor: Monitor, *, resume: bool
) -> TrainSeg:
    """Complete the settings of `toco train-seg`; see `with_planned_cam`.

    Args:
        dataset: The open data set; otherwise there is nothing to do.
        run: The run folder.
        config: As for `with_planned_cam`.
        given: The recipe, and which values were given.
        monitor: Gets the line.
        resume: Whether to resume a training, if one was begun.

    Raises:
        UserError: The data set or the settings cannot work.
    """
    from stages.run_folder.artifacts import finished, in_use
    from stages.run_folder.run_config import AllSettings, with_stored_stage

    if dataset is None or isinstance(dataset, Path) or not finished(run, "cam") or not is_planned(given):
        return config
    if resume and in_use(run / "seg"):
        return config
    cam = replace(
        with_stored_stage(run, "cam", TrainCam(), frozenset()), device=config.device
    )  # may be another machine
    labels = with_stored_stage(run, "labels", MakeLabels(), frozenset())
    settings = AllSettings(cam=cam, labels=labels, seg=config)
    all_given = Given(
        given.recipe,
        {
            "train_cam": frozenset(one.name for one in fields(cam)),
            "make_labels": frozenset(one.name for one in fields(labels)),
            "train_seg": given.of("config"),
        },
    )
    found = new_plan(dataset, settings, all_given, monitor, timed=False)
    _say_chosen("train-seg", found, monitor)
    return found.settings.seg


def _say_chosen(stage: str, found: "Plan", monitor: Monitor) -> None:
    chosen = [one for one in found.choices if one.option.startswith(f"{stage}.") and one.reason != "given"]
    if chosen and is_rank_zero():
        options = " ".join(f"--{one.option.partition('.')[2]} {value_text(one.value)}" for one in chosen)
        monitor.note(
            f"chosen for the data and {found.hardware.name} (recipe {found.recipe}): {options}; "
            f"'--recipe {RECIPE_OF_DEFAULTS}' takes published settings instead"
        )
