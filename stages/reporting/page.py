"""The HTML page of a report: one file that needs no other file and no network."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from data.dataset import Dataset
from data.palette import class_colours
from data.pictures import STRENGTH
from stages.evaluate import Evaluation
from stages.option import as_option
from stages.reporting.charts import Chart, ConfusionMatrix
from stages.reporting.corrected import CorrectedMasks
from stages.reporting.gallery import Entry
from stages.run_folder.provenance import Session
from stages.sweep import Sweep
from stages.verdict.judge import Verdict

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent
RANKS_BY_GROUND_TRUTH = {"worst": "worst", "median": "median", "best": "best"}
RANKS_BY_EVIDENCE = {"worst": "most suspicious", "median": "less suspicious", "best": "least suspicious"}


class StageFacts(NamedTuple):
    """The facts about one stage."""

    name: str
    seconds: float
    sessions: Sequence[Session]
    settings: Mapping[str, Any]  # by field name, without those that are None
    changed: Mapping[str, Any]  # the settings that differ from their defaults


@dataclass(frozen=True, kw_only=True)
class Page:
    """The content of the page. None or empty means that this part is not shown."""

    run: Path
    dataset: Dataset
    stages: Sequence[StageFacts]
    verdict: Verdict | None
    evaluation: Evaluation | None
    image_counts: Sequence[int]  # number of training images of each class
    entries: Sequence[Entry]
    by_ground_truth: bool  # whether the gallery is ranked by ground-truth masks
    background: float  # background threshold of the labels
    sweep: Sweep | None
    charts: Mapping[str, Chart]
    confusion: ConfusionMatrix | None
    masks: int  # number of images with a pseudo mask
    following: str  # the command to run next
    corrected: CorrectedMasks | None = None


class Panel(NamedTuple):
    """A picture of the page that is written while a stage trains."""

    title: str
    url: str  # the picture as a data URL


@dataclass(frozen=True, kw_only=True)
class TrainingPage:
    """The content of the page while a stage trains."""

    run: Path
    title: str  # what is trained
    done: int  # steps
    total: int
    finished: bool  # whether the training is
    written: str  # date and time
    figures: Mapping[str, str]  # the last value of each, by name
    panels: Sequence[Panel]
    charts: Sequence[Chart]
    following: str  # the command to run next


def render_training(page: TrainingPage, refresh: int) -> str:
    """Return the HTML text of the page while a stage trains; it reloads itself every `refresh` seconds."""
    template = _environment().get_template("page.training.html.j2")
    return template.render(
        page=page,
        name=page.run.resolve().name,
        refresh=refresh,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # late: a training imports this file first

    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=_duration, percent=_percent, option=as_option)
    return environment


def render(page: Page) -> str:
    """Return the HTML text."""
    environment = _environment()
    colours = class_colours(len(page.dataset.class_names))
    return environment.get_template("page.html.j2").render(
        page=page,
        corrected=page.corrected,
        name=page.run.resolve().name,
        class_names=page.dataset.class_names,
        colours=["#" + colour.tobytes().hex() for colour in colours],
        rank_names=RANKS_BY_GROUND_TRUTH if page.by_ground_truth else RANKS_BY_EVIDENCE,
        facts=json.dumps(
            {
                "colours": colours.tolist(),
                "sliders": [entry.slider for entry in page.entries],
                "curve": page.sweep.as_dict()["curve"] if page.sweep else [],
                "strength": STRENGTH,
            }
        ),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
