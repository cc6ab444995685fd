"""One field of a settings dataclass: default, help and limits, said once."""

from dataclasses import Field, dataclass, field, fields
from typing import TypeVar, cast

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True)
class OptionText:
    """What a field says of itself beside its name, type and default."""

    help: str
    minimum: int | float | None = None
    maximum: int | float | None = None
    group: str | None = None
    alone: str | None = None


def option(
    default: Value,
    help: str,
    *,
    minimum: int | float | None = None,
    maximum: int | float | None = None,
    group: str | None = None,
    alone: str | None = None,
) -> Value:
    """Declare a field of a frozen, keyword-only dataclass that also becomes a command's option.

    The option's name is the field's (`batch_size` becomes `--batch-size`), its choices come from a `Literal`
    or `Enum` annotation, and a field of type `tuple[X, ...]` becomes an option to give once or several times.

    Args:
        default: The value where nobody says otherwise; immutable.
        help: A sentence or two for somebody who has not read the paper; what None means, where it is allowed.
        minimum: Smallest value allowed, itself included; of each item where the field is a tuple.
        maximum: Largest value allowed, itself included; of each item where the field is a tuple.
        group: Heading under which the command's help lists the option; without it, 'Options'.
        alone: The choice that is meant where the option is given without a value.

    Returns:
        The dataclass field, typed as its value for the sake of type checkers.
    """
    text = OptionText(help=help, minimum=minimum, maximum=maximum, group=group, alone=alone)
    return field(default=default, metadata={OptionText: text})


def option_text(of: "Field[object]") -> OptionText:
    """What was declared by `option` for this field; a TypeError for a field declared otherwise."""
    try:
        return cast(OptionText, of.metadata[OptionText])
    except KeyError:
        raise TypeError(f"field '{of.name}' is not declared by option(default, help=...)") from None


def check_limits(settings: object) -> None:
    """Refuse values beyond the limits that the fields declare; for `__post_init__`.

    Args:
        settings: An instance of a dataclass whose fields are declared by `option`.

    Raises:
        ValueError: Names the option, its value and the limit.
    """
    for one in fields(settings):  # type: ignore[arg-type]
        text, value = option_text(one), getattr(settings, one.name)
        for item in value if isinstance(value, tuple) else (value,):
            if item is None or isinstance(item, str):
                continue
            if text.minimum is not None and not item >= text.minimum:
                raise ValueError(f"{flag(one.name)} is {item}: it must be at least {text.minimum}")
            if text.maximum is not None and not item <= text.maximum:
                raise ValueError(f"{flag(one.name)} is {item}: it must be at most {text.maximum}")


def flag(name: str) -> str:
    """The option that a field becomes, for messages: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")
