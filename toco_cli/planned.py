"""Which settings a command takes where the user gave none: those of a begun run, of its plan, or of a new plan."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stages.config import CAM_RECIPES, Run
from stages.option import Given
from stages.planning.recipes import ORDER
from stages.runtime.launch import is_local_child, is_rank_zero, started_by
from stages.runtime.monitor import Monitor

if TYPE_CHECKING:
    from data.dataset import Dataset
    from stages.planning.planner import Plan
    from stages.run_folder.run_config import AllSettings

RECIPE_CHOICES = {**dict.fromkeys(ORDER), **CAM_RECIPES}  # planned ones, and published settings


def default_run(data: Path) -> Path:
    """Return the run folder of a data set, if none is given."""
    return Path("runs") / data.resolve().name


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
) -> "Plan":
    """Make a plan; see `stages.plan.plan`.

    Args:
        data: The data set.
        settings: The given values, and defaults for all others.
        given: The recipe, and which values were given.
        monitor: Receives progress.
        time: The time that the run may take, as text: '2h'.
        timed: Whether steps are timed.

    Raises:
        UserError: The data set, the weights or the settings cannot work.
    """
    from stages.plan import plan as stage
    from stages.planning.budget import minutes_of

    budget = None if time is None else minutes_of(time)
    return stage(data, settings, given, monitor, budget=budget, timed=timed)


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
        return config, settings
    from stages.plan import check_fits, write_plan
    from stages.planning.planner import needs_timing
    from stages.run import before_run
    from stages.run_folder.run_config import begun_or_planned, with_begun_stages

    anew = config.overwrite == "train-cam"
    # A process that toco started for another device repeats this command, and takes the plan of the first one.
    other_plan = (anew or time is not None or given.recipe is not None) and not is_local_child()
    stored = begun_or_planned(out, anew=anew, other_plan=other_plan)
    if stored is not None:
        if (given.recipe is not None or time is not None) and not is_local_child():
            monitor.warn(
                f"{out} keeps the settings in {stored.path}: --recipe and --time change nothing, unless you start "
                "again with --overwrite"
            )
        return stored.fill(config, settings, given)
    if not anew:
        settings, given = with_begun_stages(out, settings, given)
    dataset = before_run(data, out, config, settings)
    several = config.nodes > 1 or started_by().starter != ""  # each process plans, and all must choose the same
    found = new_plan(dataset, settings, given, monitor, time=time, timed=needs_timing(given) and not several)
    if show is not None and is_rank_zero():
        show(found)
    check_fits(found, f"toco run {data} --out {out}")
    if is_rank_zero():
        write_plan(out, found, config)
    return config, found.settings
