"""From a settings dataclass to a command's options: all that is said of them is said once, in its fields."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import zip_longest
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from stages.option import OptionText, flag, option_text

Function = TypeVar("Function", bound=Callable[..., None])
Recipes = Mapping[str, Mapping[str, object]]

UNGROUPED = "Options"
VALUE_SOURCES = ("file", "command line")  # of values; the later one wins


def command(
    app: typer.Typer, *, recipes: Recipes | None = None, recipes_of: str = "config"
) -> Callable[[Function], Function]:
    """Make a function a command of `app`, with its settings spread out into one option a field.

    Settings are the parameters that are annotated with a dataclass. Those of `config` are options of the plain
    name (`--iterations`). Any others, say `train_cam`, are of another command: their options have its name before
    them (`--train-cam.iterations`), help leaves them out, and they take over from `config` what was given there
    under the same name. A parameter's default, where it has one, gives the defaults of its fields. The function's
    own parameters (data, out, resume ...) are what Typer makes of them; its docstring is the help. A ValueError
    from the settings' `__post_init__` is reported as a bad option.

    Args:
        app: Where the command is added, under the function's name (`train_cam` becomes `train-cam`).
        recipes: Named sets of other defaults, {name: {field: value}}. Where given, the command has an option
            `--recipe NAME`; options that the user gives win over the recipe.
        recipes_of: The settings whose defaults they are.

    Returns:
        A decorator that hands the function back as it is.

    Raises:
        ValueError: A recipe names a field that the settings do not have.
    """

    def add(function: Function) -> Function:
        settings = _settings_of(function)
        words = {word: rewritten for one in settings for word, rewritten in _rewritten_words(one).items()}
        command_class = type("Command", (GroupedHelpCommand,), {"rewritten": words})
        app.command(cls=command_class)(_with_options(function, settings, recipes or {}, recipes_of))
        return function

    return add


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A parameter that holds a command's settings."""

    name: str
    default: Any  # an instance of its dataclass

    @property
    def prefix(self) -> str:
        """What its options' names begin with: 'train-cam.' or nothing."""
        return "" if self.name == "config" else self.name.replace("_", "-") + "."

    def parameter(self, field: str) -> str:
        """The name of the parameter, as Typer sees it, of one of its options."""
        return field if self.name == "config" else f"{self.name}__{field}"

    def flag(self, field: str) -> str:
        """The option that a field becomes."""
        return "--" + self.prefix + flag(field).removeprefix("--")


def _settings_of(function: Callable[..., None]) -> list[Settings]:
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    return [
        Settings(
            name=name,
            default=hint() if parameters[name].default is inspect.Parameter.empty else parameters[name].default,
        )
        for name, hint in hints.items()
        if name in parameters and is_dataclass(hint) and isinstance(hint, type)
    ]


def _with_options(
    function: Callable[..., None], settings: list[Settings], recipes: Recipes, recipes_of: str
) -> Callable[..., None]:
    """The function as Typer is to see it; called with options, it makes settings of them for the original."""
    if not settings:
        return function
    options = {one.name: _option_parameters(one) for one in settings}
    if recipes:
        _check_recipes(recipes, options[recipes_of])

    def run(_context: typer.Context, **values: Any) -> None:
        changed = recipes.get(values.pop("recipe", None), {})
        shared: dict[str, dict[str, Any]] = {source: {} for source in VALUE_SOURCES}
        for one in settings:
            layers = [changed if one.name == recipes_of else {}]
            given = {name: values.pop(one.parameter(name)) for name in options[one.name]}
            for source in VALUE_SOURCES:
                own = {
                    name: _from_typer(value)
                    for name, value in given.items()
                    if _source(_context, one.parameter(name)) == source
                }
                layers += [{name: value for name, value in shared[source].items() if name in given}, own]
                if one.name == "config":
                    shared[source] = own
            try:
                values[one.name] = replace(one.default, **{name: layer[name] for layer in layers for name in layer})
            except ValueError as error:
                where = f"{one.prefix.removesuffix('.')}: " if one.prefix else ""
                raise typer.BadParameter(f"{where}{error}", ctx=_context) from error
        function(**values)

    hints = get_type_hints(function, include_extras=True)
    parameters = [_parameter("_context", typer.Context)]
    for name, parameter in inspect.signature(function).parameters.items():
        if name in options:
            parameters += options[name].values()
            if recipes and name == recipes_of:
                parameters.append(_recipe_parameter(recipes))
        else:
            parameters.append(_parameter(name, hints[name], parameter.default))
    run.__name__ = function.__name__
    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option_parameters(settings: Settings) -> dict[str, inspect.Parameter]:
    """One keyword parameter a field, annotated as Typer wants it, its default shown in the help."""
    hints = get_type_hints(type(settings.default))
    parameters = {}
    for one in fields(settings.default):
        item, repeated = _item_type(hints[one.name])
        default: Any = getattr(settings.default, one.name)
        if repeated:
            default = list(default)
        # Typer knows no unions, and no lists of choices: what takes either has a parser of its own.
        kind = str if _parser_of(item, repeated) else item
        annotation = list[kind] if repeated else kind  # type: ignore[valid-type]
        if default is None:
            annotation = annotation | None
        # Typer makes names of its own for plain options, --skip-bad with --no-skip-bad.
        names = _prefixed_names(settings, one.name, item) if settings.prefix else ()
        information = _option_information(option_text(one), item, repeated, names)
        parameters[one.name] = _parameter(settings.parameter(one.name), Annotated[annotation, information], default)
    return parameters


def _prefixed_names(settings: Settings, field: str, item: Any) -> tuple[str, ...]:
    name = settings.flag(field)
    return (f"{name}/{settings.flag('no_' + field)}" if item is bool else name,)


def _option_information(text: OptionText, item: Any, repeated: bool, names: tuple[str, ...]) -> object:
    parser = _parser_of(item, repeated)
    return typer.Option(
        *names,
        hidden=bool(names),
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


class Rewritten(NamedTuple):
    """What a word of the command line is replaced by before Typer reads it."""

    words: tuple[str, ...]
    unless_followed_by: tuple[str, ...] = ()  # values; the word stays as it is before one of these


def _rewritten_words(settings: Settings) -> dict[str, Rewritten]:
    """List the short and the earlier forms of options: options without a value, shorthands, old names."""
    hints = get_type_hints(type(settings.default))
    found: dict[str, Rewritten] = {}
    for one in fields(settings.default):
        text, now = option_text(one), settings.flag(one.name)
        if text.alone:
            found[now] = Rewritten((now, text.alone), unless_followed_by=get_args(hints[one.name]))
        if text.shorthand:
            found[settings.flag(text.shorthand)] = Rewritten((now, text.shorthand))
        for old in text.old_names:
            found[settings.flag(old)] = Rewritten((now,))
            if hints[one.name] is bool:
                found[settings.flag(f"no_{old}")] = Rewritten((settings.flag(f"no_{one.name}"),))
    return found


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


def _source(context: typer.Context, name: str) -> str | None:
    """Which of VALUE_SOURCES a parameter's value is from, None if it is its default."""
    source = context.get_parameter_source(name)
    if source is None or source.name == "DEFAULT":
        return None
    return "file" if source.name == "DEFAULT_MAP" else "command line"


def _from_typer(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


class GroupedHelpCommand(TyperCommand):
    """A command whose plain-text help lists its options under the headings that they name."""

    rewritten: Mapping[str, Rewritten] = {}

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Replace short and earlier forms of options: `--crf` by `--refine crf`, `--head-factor` by its new name."""
        words: list[str] = []
        for word, following in zip_longest(args, args[1:], fillvalue=""):
            name, equals, value = word.partition("=")
            rule = self.rewritten.get(name)
            if rule is None or following in rule.unless_followed_by or (equals and len(rule.words) > 1):
                words.append(word)
            else:
                words += [*rule.words[:-1], rule.words[-1] + equals + value]
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
