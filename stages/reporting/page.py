"""The page of a report: one HTML file with all that it needs."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from data.dataset import Dataset
from data.palette import class_colours
from stages.evaluate import UNLABELLED, Evaluation
from stages.option import flag
from stages.reporting.gallery import Entry
from stages.run_folder.provenance import Session
from stages.sweep import Sweep

FOLDER = Path(__file__).parent
RANKS_BY_TRUTH = {"best": "best", "median": "median", "worst": "worst"}
RANKS_BY_CHANGE = {"best": "changed least", "median": "changed", "worst": "changed most"}


class Chart(NamedTuple):
    """A chart and what it shows in words, for those who cannot see it."""

    title: str
    svg: str
    words: str

    @property
    def url(self) -> str:
        """The picture as a data URL: names inside of different SVGs then do not meet."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg.encode()).decode()


class StageFacts(NamedTuple):
    """What is said of a stage."""

    name: str
    seconds: float
    sessions: Sequence[Session]
    settings: Mapping[str, Any]  # by field names; those that are None are left out
    changed: Mapping[str, Any]  # those that differ from the defaults


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page shows; None and empty where there is nothing to show."""

    run: Path
    dataset: Dataset
    stages: Sequence[StageFacts]
    evaluation: Evaluation | None
    image_counts: Sequence[int]  # training images that show each class
    entries: Sequence[Entry]
    by_truth: bool  # whether the gallery's order is by true masks
    mask_title: str
    background: float
    sweep: Sweep | None
    charts: Mapping[str, Chart]
    smoothness: Chart


def render(page: Page) -> str:
    """Make the HTML."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(duration=_duration, percent=_percent, option=_option)
    colours = class_colours(len(page.dataset.class_names))
    return environment.get_template("page.html.j2").render(
        page=page,
        name=page.run.resolve().name,
        class_names=page.dataset.class_names,
        colours=["#" + colour.tobytes().hex() for colour in colours],
        rule=UNLABELLED,
        rank_names=RANKS_BY_TRUTH if page.by_truth else RANKS_BY_CHANGE,
        facts=json.dumps(
            {
                "colours": colours.tolist(),
                "sliders": [entry.slider for entry in page.entries],
                "curve": page.sweep.as_dict()["curve"] if page.sweep else [],
            }
        ),
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
    )


def _option(name: str, value: Any = None) -> str:
    """An option, with its value as the user would give it: a list one by one, a switch alone."""
    if isinstance(value, list):
        return " ".join(_option(name, item) for item in value)
    if value is False:
        return flag(f"no_{name}")
    return flag(name) if value in (None, True) else f"{flag(name)} {value}"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _percent(share: float) -> str:
    return "-" if share != share else f"{100 * share:.1f}"
