"""From a settings dataclass to a command's options: all that is said of them is said once, in its fields."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from stages.option import OptionText, flag, option_text

Function = TypeVar("Function", bound=Callable[..., None])
Recipes = Mapping[str, Mapping[str, object]]

UNGROUPED = "Options"


def command(app: typer.Typer, *, recipes: Recipes | None = None) -> Callable[[Function], Function]:
    """Make a function a command of `app`, with its parameter `config` spread out into one option a field.

    The function's own parameters (data, out, resume ...) are what Typer makes of them; its docstring is the
    help. A ValueError from the settings' `__post_init__` is reported as a bad option.

    Args:
        app: Where the command is added, under the function's name (`train_cam` becomes `train-cam`).
        recipes: Named sets of other defaults for `config`, {name: {field: value}}. Where given, the command
            has an option `--recipe NAME`; options that the user gives win over the recipe.

    Returns:
        A decorator that hands the function back as it is.

    Raises:
        ValueError: A recipe names a field that the settings do not have.
    """

    def add(function: Function) -> Function:
        config_class = get_type_hints(function).get("config")
        choices = _choices_when_alone(config_class) if config_class else {}
        command_class = type("Command", (GroupedHelpCommand,), {"when_alone": choices})
        app.command(cls=command_class)(_with_options(function, recipes or {}))
        return function

    return add


def _with_options(function: Callable[..., None], recipes: Recipes) -> Callable[..., None]:
    """The function as Typer is to see it; called with options, it makes a config of them for the original."""
    hints = get_type_hints(function, include_extras=True)
    if "config" not in hints:
        return function
    config_class = hints["config"]
    options = _option_parameters(config_class)
    _check_recipes(recipes, options)
    if recipes:
        options["recipe"] = _recipe_parameter(recipes)

    def run(_context: typer.Context, **values: Any) -> None:
        given = {name: values.pop(name) for name in options}
        changed = recipes.get(given.pop("recipe", None), {})
        explicit = {name: _from_typer(value) for name, value in given.items() if _was_given(_context, name)}
        try:
            config = config_class(**{**changed, **explicit})
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=_context) from error
        function(**values, config=config)

    parameters = [_parameter("_context", typer.Context)]
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "config":
            parameters += options.values()
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))
    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option_parameters(config_class: type) -> dict[str, inspect.Parameter]:
    """One keyword parameter a field, annotated as Typer wants it, its default shown in the help."""
    hints = get_type_hints(config_class)
    parameters = {}
    for one in fields(config_class):
        item, repeated = _item_type(hints[one.name])
        default: Any = one.default
        if repeated:
            default = list(default)
        # Typer knows no unions, and no lists of choices: what takes either has a parser of its own.
        kind = str if _parser_of(item, repeated) else item
        annotation = list[kind] if repeated else kind  # type: ignore[valid-type]
        if default is None:
            annotation = annotation | None
        information = _option_information(option_text(one), item, repeated)
        parameters[one.name] = _parameter(one.name, Annotated[annotation, information], default)
    return parameters


def _option_information(text: OptionText, item: Any, repeated: bool) -> object:
    parser = _parser_of(item, repeated)
    return typer.Option(
        help=text.help + " May be given several times." * repeated,
        min=None if parser else text.minimum,
        max=None if parser else text.maximum,
        metavar=_metavar(item, repeated),
        parser=parser,
        rich_help_panel=text.group,
    )


def _parser_of(item: Any, repeated: bool) -> Callable[[str], Any] | None:
    """What makes a value of what is given, where Typer cannot."""
    if words := _words_or_number(item):
        return partial(_parse_word_or_number, words)
    return partial(_parse_choice, get_args(item)) if repeated and get_origin(item) is Literal else None


def _metavar(item: Any, repeated: bool) -> str | None:
    if words := _words_or_number(item):
        return f"<{'|'.join(words)}|number>"
    if repeated and get_origin(item) is Literal:
        return f"<{'|'.join(get_args(item))}>"
    return f"<{item.__name__}>" if item in (int, float) else None


def _words_or_number(item: Any) -> tuple[str, ...]:
    """The words that an option takes in place of a number: ('auto',) for `float | Literal['auto']`."""
    if get_origin(item) not in (Union, UnionType):
        return ()
    return tuple(word for kind in get_args(item) if get_origin(kind) is Literal for word in get_args(kind))


def _parse_word_or_number(words: tuple[str, ...], given: object) -> str | float:
    if isinstance(given, float) or given in words:
        return given
    try:
        return float(str(given))
    except ValueError:
        raise typer.BadParameter(f"{given!r} is neither a number nor {' nor '.join(words)}") from None


def _parse_choice(choices: tuple[str, ...], given: str) -> str:
    if given not in choices:
        raise typer.BadParameter(f"{given!r} is not one of {', '.join(map(repr, choices))}.")
    return given


def _choices_when_alone(config_class: type) -> dict[str, tuple[str, tuple[str, ...]]]:
    """What an option means without a value, and which values it takes, for options that may stand alone."""
    hints = get_type_hints(config_class)
    texts = {one.name: option_text(one) for one in fields(config_class)}
    return {flag(name): (text.alone, get_args(hints[name])) for name, text in texts.items() if text.alone}


def _item_type(hint: Any) -> tuple[Any, bool]:
    """What one value of an option is, None left out, and whether the option holds a tuple of them."""
    if get_origin(hint) in (Union, UnionType):
        hint = Union[tuple(kind for kind in get_args(hint) if kind is not type(None))]  # noqa: UP007
    if get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,):
        return get_args(hint)[0], True
    return hint, False


def _recipe_parameter(recipes: Recipes) -> inspect.Parameter:
    changes = {
        name: " ".join(_as_typed(field, value) for field, value in changed.items()) for name, changed in recipes.items()
    }
    listed = "; ".join(f"{name}: {text or 'those shown here'}" for name, text in changes.items())
    information = typer.Option(help=f"Which defaults to take; options given beside it win ({listed}).")
    choices = Literal[tuple(recipes)]  # type: ignore[valid-type]
    return _parameter("recipe", Annotated[choices | None, information], None)


def _as_typed(name: str, value: object) -> str:
    """The value as the user would give it on the command line."""
    if isinstance(value, bool):
        return flag(name) if value else flag(f"no_{name}")
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{flag(name)} {item}" for item in values)


def _check_recipes(recipes: Recipes, options: Mapping[str, inspect.Parameter]) -> None:
    for name, changed in recipes.items():
        if unknown := sorted(changed.keys() - options.keys()):
            raise ValueError(f"recipe '{name}' changes {', '.join(unknown)}, which the settings do not have")


def _parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")


def _from_typer(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class GroupedHelpCommand(TyperCommand):
    """A command whose plain-text help lists its options under the headings that they name."""

    when_alone: Mapping[str, tuple[str, tuple[str, ...]]] = {}

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Add what options mean that stand without a value: `--crf RUN` is `--crf full RUN`."""
        words = []
        for word, following in zip(args, [*args[1:], ""], strict=True):
            words.append(word)
            meant, choices = self.when_alone.get(word, ("", ()))
            if meant and following not in choices:
                words.append(meant)
        return super().parse_args(ctx, words)

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the arguments, the ungrouped options, then the groups in the order of their first option."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], UNGROUPED: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            argument = parameter.param_type_name == "argument"
            group = "Arguments" if argument else getattr(parameter, "rich_help_panel", None) or UNGROUPED
            rows.setdefault(group, []).append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)
