"""Makes the options of a command from the fields of its settings dataclasses."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from itertools import zip_longest
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from data.errors import SettingsError
from stages.option import Given, OptionText, flag, option_text

Function = TypeVar("Function", bound=Callable[..., None])
Recipes = Mapping[str, Mapping[str, object] | None]  # None: the plan chooses

UNGROUPED = "Options"
GIVEN = "given"  # the parameter that receives what the user gave
VALUE_SOURCES = ("file", "command line")  # the later one takes precedence


def command(
    app: typer.Typer,
    *,
    name: str | None = None,
    recipes: Recipes | None = None,
    recipes_of: str = "config",
    planned: Mapping[str, Collection[str]] | None = None,
) -> Callable[[Function], Function]:
    """Make a function a command of `app`, with one option for each field of its settings.

    Settings are the parameters annotated with a dataclass. The fields of `config` become options of the same name
    (`--iterations`). Any other parameter, for example `train_cam`, holds the settings of another command: its options
    have that name as a prefix (`--train-cam.iterations`), are hidden in the help, and take the value of the option of
    `config` with the same name unless they are given themselves. The default of such a parameter gives the defaults of
    its fields. Typer handles the function's other parameters (data, out, resume ...); the docstring is the help. A
    ValueError from `__post_init__` of the settings is reported as a bad option.

    A parameter named `given` receives the recipe and the names of the fields that the user gave, as `Given`.

    Args:
        app: The app that gets the command.
        name: The command's name; by default that of the function (`train_cam` becomes `train-cam`).
        recipes: Named sets of other defaults, {name: {field: value}}. If given, the command has an option
            `--recipe NAME`; options on the command line take precedence over the recipe. A recipe that is None changes
            nothing: the command chooses the values itself, by its parameter `given`.
        recipes_of: The parameter whose defaults the recipes change.
        planned: Fields that the command chooses itself if they are not given, by parameter. Their default is shown as
            auto, and the value auto is the same as not to give them.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: A recipe names a field that the settings do not have.
    """

    def add(function: Function) -> Function:
        settings = _settings_of(function)
        SETTINGS_OF_COMMANDS[function] = CommandSettings(settings, recipes or {}, recipes_of, planned or {})
        words = {word: rewritten for one in settings for word, rewritten in _rewritten_words(one).items()}
        auto = {
            one.parameter(field): one.flag(field) for one in settings for field in (planned or {}).get(one.name, ())
        }
        command_class = type("Command", (GroupedHelpCommand,), {"rewritten": words, "auto": auto})
        app.command(name, cls=command_class)(_with_options(function, SETTINGS_OF_COMMANDS[function]))
        return function

    return add


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A parameter that holds settings."""

    name: str
    default: Any  # an instance of the dataclass

    @property
    def prefix(self) -> str:
        """Prefix of the option names: 'train-cam.' or empty."""
        return "" if self.name == "config" else self.name.replace("_", "-") + "."

    def parameter(self, field: str) -> str:
        """Return the name of Typer's parameter for a field."""
        return field if self.name == "config" else f"{self.name}__{field}"

    def flag(self, field: str) -> str:
        """Return the option for a field."""
        return "--" + self.prefix + flag(field).removeprefix("--")


class CommandSettings(NamedTuple):
    """All settings of a command, and its recipes."""

    parameters: list[Settings]
    recipes: Recipes
    recipes_of: str
    planned: Mapping[str, Collection[str]]

    def combined(self, recipe: str | None, *given: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Return the settings of each parameter.

        The values of a recipe replace the defaults. Given values replace those of the recipe. A value given for
        `config` counts for each other parameter that has the field, unless it is given there, too.

        Args:
            recipe: Name of a recipe; None for the defaults.
            given: {parameter: {field: value}} of each source of values; the later one takes precedence.

        Raises:
            SettingsError: The settings contradict each other; names the parameter, if it is not `config`.
        """
        changed = self.recipes.get(recipe or "") or {}
        made = {}
        for one in self.parameters:
            layers = [changed if one.name == self.recipes_of else {}, *_layers(one, given)]
            try:
                made[one.name] = replace(one.default, **{name: layer[name] for layer in layers for name in layer})
            except ValueError as error:
                where = f"{one.prefix.removesuffix('.')}: " if one.prefix else ""
                raise SettingsError(f"{where}{error}") from error
        return made

    def given(self, recipe: str | None, *given: Mapping[str, Mapping[str, Any]]) -> Given:
        """Return the recipe and the names of the given fields; arguments as of `combined`."""
        names = {
            one.name: frozenset(name for layer in _layers(one, given) for name in layer) for one in self.parameters
        }
        return Given(recipe, names)


def _layers(settings: Settings, given: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    """Return the values given for settings, the later ones with precedence; those for `config` count for all."""
    names = {field.name for field in fields(settings.default)}
    layers: list[Mapping[str, Any]] = []
    for source in given:
        shared = {name: value for name, value in source.get("config", {}).items() if name in names}
        layers += [shared, source.get(settings.name, {})]
    return layers


SETTINGS_OF_COMMANDS: dict[Callable[..., None], CommandSettings] = {}  # by function; filled by `command`


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


def _with_options(function: Callable[..., None], command_settings: CommandSettings) -> Callable[..., None]:
    """Return the function that Typer sees: it makes settings from the options and calls the original."""
    settings, recipes, recipes_of, planned = command_settings
    if not settings:
        return function
    options = {one.name: _option_parameters(one, planned.get(one.name, ())) for one in settings}
    if recipes:
        _check_recipes(recipes, options[recipes_of])

    def run(_context: typer.Context, **values: Any) -> None:
        recipe = values.pop("recipe", None)
        given: dict[str, dict[str, dict[str, Any]]] = {source: {} for source in VALUE_SOURCES}
        for one in settings:
            for name in options[one.name]:
                value, source = values.pop(one.parameter(name)), _source(_context, one.parameter(name))
                if source is not None:
                    given[source].setdefault(one.name, {})[name] = _from_typer(value)
        try:
            values |= command_settings.combined(recipe, *(given[source] for source in VALUE_SOURCES))
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=_context) from error
        if GIVEN in inspect.signature(function).parameters:
            values[GIVEN] = command_settings.given(recipe, *(given[source] for source in VALUE_SOURCES))
        function(**values)

    hints = get_type_hints(function, include_extras=True)
    parameters = [_parameter("_context", typer.Context)]
    for name, parameter in inspect.signature(function).parameters.items():
        if name == GIVEN:
            continue
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


def _option_parameters(settings: Settings, planned: Collection[str]) -> dict[str, inspect.Parameter]:
    """Return one keyword parameter per field, annotated for Typer, with the default that the help shows."""
    hints = get_type_hints(type(settings.default))
    parameters = {}
    for one in fields(settings.default):
        item, repeated = _item_type(hints[one.name])
        default: Any = getattr(settings.default, one.name)
        if repeated and default is not None:
            default = list(default)
        # Typer does not support unions or lists of choices: these options have their own parser.
        kind = str if _parser_of(item, repeated) else item
        annotation = list[kind] if repeated else kind  # type: ignore[valid-type]
        if default is None:
            annotation = annotation | None
        # Typer names options without a prefix itself: --skip-bad and --no-skip-bad.
        names = _prefixed_names(settings, one.name, item) if settings.prefix else ()
        information = _option_information(option_text(one), item, repeated, names, auto=one.name in planned)
        parameters[one.name] = _parameter(settings.parameter(one.name), Annotated[annotation, information], default)
    return parameters


def _prefixed_names(settings: Settings, field: str, item: Any) -> tuple[str, ...]:
    name = settings.flag(field)
    return (f"{name}/{settings.flag('no_' + field)}" if item is bool else name,)


def _option_information(text: OptionText, item: Any, repeated: bool, names: tuple[str, ...], *, auto: bool) -> object:
    parser = _parser_of(item, repeated)
    return typer.Option(
        *names,
        hidden=bool(names),
        show_default="auto" if auto else True,
        help=text.help + " May be given several times." * repeated,
        min=None if parser else text.minimum,
        max=None if parser else text.maximum,
        metavar=_metavar(item, repeated),
        parser=parser,
        rich_help_panel=text.group,
    )


def _parser_of(item: Any, repeated: bool) -> Callable[[str], Any] | None:
    """Return the parser of an option whose type Typer does not support."""
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
    """Return the words allowed instead of a number: ('auto',) for `float | Literal['auto']`."""
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
    """The replacement of a word of the command line, made before Typer parses it."""

    words: tuple[str, ...]
    unless_followed_by: tuple[str, ...] = ()  # values before which the word is not replaced
    not_beside: str = ""  # an option that may not be given as well
    refused_values: tuple[str, ...] = ()  # of an earlier version; the word takes no value now


def _rewritten_words(settings: Settings) -> dict[str, Rewritten]:
    """Return the replacements of options without a value, shorthands and old names."""
    hints = get_type_hints(type(settings.default))
    found: dict[str, Rewritten] = {}
    for one in fields(settings.default):
        text, now = option_text(one), settings.flag(one.name)
        if text.alone:
            found[now] = Rewritten((now, text.alone), unless_followed_by=get_args(hints[one.name]))
        if text.shorthand:
            found[settings.flag(text.shorthand)] = Rewritten(
                (now, text.shorthand), not_beside=now, refused_values=text.old_values_of_shorthand
            )
        for old in text.old_names:
            found[settings.flag(old)] = Rewritten((now,))
            if hints[one.name] is bool:
                found[settings.flag(f"no_{old}")] = Rewritten((settings.flag(f"no_{one.name}"),))
    return found


def _item_type(hint: Any) -> tuple[Any, bool]:
    """Return the type of one value, without None, and whether the option holds a tuple of values."""
    if get_origin(hint) in (Union, UnionType):
        hint = Union[tuple(kind for kind in get_args(hint) if kind is not type(None))]  # noqa: UP007
    if get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,):
        return get_args(hint)[0], True
    return hint, False


def _recipe_parameter(recipes: Recipes) -> inspect.Parameter:
    planned = [name for name, changed in recipes.items() if changed is None]
    texts = [f"{', '.join(planned)}: values chosen for the data and the machine"] if planned else []
    for name, changed in recipes.items():
        if changed is not None:
            text = " ".join(_as_typed(field, value) for field, value in changed.items())
            texts.append(f"{name}: {text or 'the defaults shown here'}")
    listed = "; ".join(texts)
    information = typer.Option(help=f"Set of defaults; options on the command line take precedence ({listed}).")
    choices = Literal[tuple(recipes)]  # type: ignore[valid-type]
    return _parameter("recipe", Annotated[choices | None, information], None)


def _as_typed(name: str, value: object) -> str:
    """Return the option and value as typed on the command line."""
    if isinstance(value, bool):
        return flag(name) if value else flag(f"no_{name}")
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{flag(name)} {item}" for item in values)


def _check_recipes(recipes: Recipes, options: Mapping[str, inspect.Parameter]) -> None:
    for name, changed in recipes.items():
        if unknown := sorted((changed or {}).keys() - options.keys()):
            raise ValueError(f"recipe '{name}' changes {', '.join(unknown)}, which the settings do not have")


def _parameter(name: str, annotation: object, default: object = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _source(context: typer.Context, name: str) -> str | None:
    """Return which of VALUE_SOURCES gave a parameter's value; None for its default."""
    source = context.get_parameter_source(name)
    if source is None or source.name == "DEFAULT":
        return None
    return "file" if source.name == "DEFAULT_MAP" else "command line"


def _from_typer(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _check_shorthand(name: str, rule: Rewritten, args: list[str], value: str, context: typer.Context) -> None:
    """Refuse a shorthand beside the option that it stands for, and values that it took in an earlier version."""
    if value in rule.refused_values:
        raise typer.BadParameter(f"{name} no longer takes a value ({value}): use {rule.words[0]}", ctx=context)
    if rule.not_beside and any(word.partition("=")[0] == rule.not_beside for word in args):
        raise typer.BadParameter(
            f"{name} is short for {' '.join(rule.words)}: give either {name} or {rule.not_beside}", ctx=context
        )


def _without_auto(args: list[str], options: Collection[str]) -> list[str]:
    """Leave out options with the value auto: `--iterations auto` and `--iterations=auto`."""
    kept: list[str] = []
    for word in args:
        if word == "auto" and kept and kept[-1] in options:
            kept.pop()
        elif not (word.endswith("=auto") and word.removesuffix("=auto") in options):
            kept.append(word)
    return kept


class GroupedHelpCommand(TyperCommand):
    """A command whose plain-text help lists the options in groups."""

    rewritten: Mapping[str, Rewritten] = {}
    auto: Mapping[str, str] = {}  # options that may be 'auto', as if they were not given, by parameter

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Replace short and earlier forms of options: `--crf` by `--refine crf`, `--head-factor` by its new name."""
        words: list[str] = []
        for word, following in zip_longest(args, args[1:], fillvalue=""):
            name, equals, value = word.partition("=")
            rule = self.rewritten.get(name)
            if rule is not None:
                _check_shorthand(name, rule, args, value if equals else following, ctx)
            if rule is None or following in rule.unless_followed_by or (equals and len(rule.words) > 1):
                words.append(word)
            else:
                words += [*rule.words[:-1], rule.words[-1] + equals + value]
        return super().parse_args(ctx, _without_auto(words, self.auto.values()))

    def format_options(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the arguments, the options without a group, then the groups in the order of their first option."""
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
