"""One field of a settings dataclass: its default, help and limits, written once."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

from data.errors import SettingsError

Value = TypeVar("Value")


class Given(NamedTuple):
    """What the user gave: all other values may be chosen."""

    recipe: str | None = None
    fields: Mapping[str, frozenset[str]] = {}  # of each settings parameter: 'config', 'train_cam'

    def of(self, parameter: str) -> frozenset[str]:
        """Return the given fields of one settings parameter."""
        return self.fields.get(parameter, frozenset())


@dataclass(frozen=True, kw_only=True)
class OptionText:
    """What a field declares beside its name, type and default; see `option`."""

    help: str
    minimum: int | float | None = None
    maximum: int | float | None = None
    group: str | None = None
    alone: str | None = None
    old_names: tuple[str, ...] = ()
    shorthand: str | None = None
    old_values_of_shorthand: tuple[str, ...] = ()


def option(
    default: Value,
    help: str,
    *,
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    group: str | None = None,
    alone: str | None = None,
    old_names: tuple[str, ...] = (),
    shorthand: str | None = None,
    old_values_of_shorthand: tuple[str, ...] = (),
) -> Value:
    """Declare a field of a frozen, keyword-only dataclass that also becomes a command-line option.

    The option is named after the field (`batch_size` becomes `--batch-size`). Its choices come from a `Literal`
    annotation. A field of type `tuple[X, ...]` becomes an option that may be given several times.

    Args:
        default: The default value; immutable.
        help: One or two sentences for a reader who does not know the paper. Says what None means, if None is allowed.
        minimum: Smallest allowed value, inclusive; applies to each item of a tuple.
        maximum: Largest allowed value, inclusive; applies to each item of a tuple.
        group: Heading in the command's help. Without it, the option is listed under 'Options'.
        alone: The choice that is meant if the option is given without a value.
        old_names: Earlier names of the field. They still work on the command line, in settings files and in old run
            folders, but do not appear in the help.
        shorthand: A choice that is also an option of its own: 'crf' makes `--crf` short for `--refine crf`.
        old_values_of_shorthand: Values that the shorthand took in an earlier version; they are refused with advice.

    Returns:
        The dataclass field, typed as its value to satisfy type checkers.
    """
    text = OptionText(
        help=help,
        minimum=minimum,
        maximum=maximum,
        group=group,
        alone=alone,
        old_names=old_names,
        shorthand=shorthand,
        old_values_of_shorthand=old_values_of_shorthand,
    )
    return field(default=default, metadata={OptionText: text})


def option_text(of: "Field[object]") -> OptionText:
    """Return what `option` declared for this field.

    Raises:
        TypeError: The field was not declared with `option`.
    """
    try:
        return cast(OptionText, of.metadata[OptionText])
    except KeyError:
        raise TypeError(f"field '{of.name}' is not declared by option(default, help=...)") from None


def check_limits(settings: object) -> None:
    """Refuse values outside the limits that the fields declare, NaN and infinity; for `__post_init__`.

    Args:
        settings: An instance of a dataclass whose fields are declared with `option`.

    Raises:
        SettingsError: Names the option, its value and the limit.
    """
    for one in fields(settings):  # type: ignore[arg-type]
        text, value = option_text(one), getattr(settings, one.name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is None or isinstance(item, str):
                continue
            if text.minimum is not None and not item >= text.minimum:
                raise SettingsError(f"{flag(one.name)} is {item}: it must be at least {text.minimum}")
            if text.maximum is not None and not item <= text.maximum:
                raise SettingsError(f"{flag(one.name)} is {item}: it must be at most {text.maximum}")
            if isinstance(item, float) and not math.isfinite(item):
                raise SettingsError(f"{flag(one.name)} is {item}: it must be a finite number")


def check_types(kind: type, values: Mapping[str, Any]) -> None:
    """Refuse plain values that do not have the types of the fields, as after an edit by hand.

    Raises:
        SettingsError: Names the first one.
    """
    hints = get_type_hints(kind)
    for name, value in values.items():
        if name in hints and not _has_type(value, hints[name]):
            raise SettingsError(f"the setting '{name}' has the value {value!r}")


def _has_type(value: Any, hint: Any) -> bool:
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return value in arguments
    if get_origin(hint) is tuple:
        return isinstance(value, list | tuple) and all(_has_type(item, arguments[0]) for item in value)
    if arguments:  # a union
        return any(_has_type(value, one) for one in arguments)
    if hint is NoneType:
        return value is None
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    return isinstance(value, int | float) if hint is float else isinstance(value, hint)


def with_current_names(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of an earlier version under today's field names; unknown names are kept as they are.

    Args:
        kind: The settings dataclass.
        values: Values by field name, old or new.
    """
    current = {old: one.name for one in fields(kind) for old in option_text(one).old_names}
    return {current.get(name, name): value for name, value in values.items()}


def flag(name: str) -> str:
    """Return the option that a field becomes: `batch_size` gives `--batch-size`."""
    return "--" + name.replace("_", "-")


def as_option(name: str, value: Any = None) -> str:
    """Format a setting as on the command line: a list as repeated options, a switch without a value.

    Args:
        name: Name of the field.
        value: Value of the field; None for the name alone.
    """
    if isinstance(value, list):
        return " ".join(as_option(name, item) for item in value)
    if value is False:
        return flag(f"no_{name}")
    if value is None or value is True:  # not `in (None, True)`: 1 and 1.0 are equal to True
        return flag(name)
    return f"{flag(name)} {shlex.quote(str(value))}"
