"""A plan on a terminal."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from stages.planning.budget import time_text, value_text
from stages.planning.planner import Plan


def plan_table(plan: Plan) -> Table:
    """Return a table of the settings: option, value, reason."""
    table = Table(title=f"plan: recipe {plan.recipe}, for {plan.hardware.line()}")
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("reason")
    stage = ""
    for one in plan.choices:
        own, _, name = one.option.partition(".")
        if own != stage:
            table.add_section()
            table.add_row(Text(own, style="bold"), "", "")
            stage = own
        table.add_row(f"  {name}", Text(value_text(one.value)), Text(one.reason))
    return table


def plan_lines(plan: Plan) -> Iterator[Text]:
    """Yield the facts about the data, the times, and what is lost."""
    for line in plan.fingerprint.lines():
        yield Text(f"Data: {line}.")
    if plan.minutes:
        stages = ", ".join(f"{stage} {time_text(minutes)}" for stage, minutes in plan.minutes.items())
        limit = "no limit" if plan.budget is None else f"limit {time_text(plan.budget)}"
        yield Text(f"Time: about {time_text(plan.total)} ({stages}); {limit}.")
    else:
        yield Text("Time: not predicted, because no step was timed; 'toco plan' times some steps.")
    if plan.memory is not None:
        yield Text(f"Memory: {plan.memory / 1e9:.1f} GB in a training step.")
    for line in plan.lost:
        yield Text(f"Reduced to fit the time: {line}.")
    for line in plan.notes:
        yield Text(f"Note: {line}.")
