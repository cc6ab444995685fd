from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from typer.testing import CliRunner, Result

from stages.option import Given, check_limits, option, option_text
from toco_cli.options import Recipes, command


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Settings:
    iterations: int = option(20_000, help="Training steps [all].", minimum=1, old_names=("steps",))
    scales: tuple[float, ...] = option((1.0, 0.5), help="Image scales.", minimum=0.1)
    box: tuple[int, int] = option((3, 4), help="Height and width.")
    mirror: bool = option(True, help="Mirror images.", old_names=("flip",))
    device: Literal["auto", "cpu"] = option("auto", help="Processor.")
    colour: Colour = option(Colour.RED, help="Colour.")
    kinds: tuple[Literal["png", "npy"], ...] = option(("png",), help="Kinds.")
    split: str | None = option(None, help="Split.")
    weights: Path | None = option(None, help="File.")
    ptc_weight: float = option(0.2, help="Weight.", minimum=0, maximum=9, group="Losses")
    background: float | Literal["auto"] = option(0.5, help="Score.", minimum=0, maximum=1)
    crf: Literal["off", "full", "fast"] = option(
        "off", help="Sharpen.", alone="full", shorthand="fast", old_values_of_shorthand=("very",)
    )

    def __post_init__(self) -> None:
        check_limits(self)
        if self.iterations == 13:
            raise ValueError("--iterations is 13: take another number")


Call = dict[str, Any]


def run(*words: str, recipes: Recipes | None = None) -> tuple[Result, Call]:
    """Run a command with these words; what it was called with is empty if it was not."""
    app = typer.Typer(rich_markup_mode=None)
    call: Call = {}

    @app.callback()
    def top() -> None: ...

    @command(app, recipes=recipes)
    def train_cam(
        data: Annotated[Path, typer.Argument(help="Folder.")],
        *,
        out: Annotated[Path, typer.Option(help="Run folder.")] = Path("run"),
        config: Settings,
        resume: Annotated[bool, typer.Option("--resume", help="Go on.")] = False,
    ) -> None:
        """Train [on labels]."""
        call.update(data=data, out=out, config=config, resume=resume)

    return CliRunner().invoke(app, ["train-cam", *words]), call


def test_command__no_options_given_is_the_defaults() -> None:
    _, call = run("photos")
    assert call == {"data": Path("photos"), "out": Path("run"), "config": Settings(), "resume": False}


def test_command__every_kind_of_field() -> None:
    words = "photos --iterations 5 --scales 2 --scales 3 --box 1 2 --no-mirror --device cpu --colour blue --kinds npy"
    _, call = run(*words.split(), "--split", "val", "--weights", "w.safetensors", "--ptc-weight", "0.5")
    assert call["config"] == Settings(
        iterations=5,
        scales=(2.0, 3.0),
        box=(1, 2),
        kinds=("npy",),
        mirror=False,
        device="cpu",
        colour=Colour.BLUE,
        split="val",
        weights=Path("w.safetensors"),
        ptc_weight=0.5,
    )


def test_command__own_parameters_pass_through() -> None:
    _, call = run("photos", "--out", "elsewhere", "--resume")
    assert call["out"] == Path("elsewhere")
    assert call["resume"] is True


RECIPES: Recipes = {
    "voc": {"iterations": 50, "scales": (1.0,)},
    "coco": {"iterations": 7, "mirror": False},
    "none": {},
}


def test_command__recipe_changes_defaults() -> None:
    _, call = run("photos", "--recipe", "coco", recipes=RECIPES)
    assert call["config"] == Settings(iterations=7, mirror=False)


def test_command__an_option_wins_over_the_recipe_also_with_the_default_value() -> None:
    _, call = run("photos", "--recipe", "voc", "--iterations", "20000", recipes=RECIPES)
    assert call["config"] == Settings(iterations=20_000, scales=(1.0,))


def test_command__help_says_what_recipes_change() -> None:
    result, _ = run("--help", recipes=RECIPES)
    text = " ".join(result.output.split())
    assert "voc: --iterations 50 --scales 1.0; coco: --iterations 7 --no-mirror; none: the defaults shown here" in text


def test_command__unknown_recipe_is_a_bad_option() -> None:
    result, call = run("photos", "--recipe", "city", recipes=RECIPES)
    assert result.exit_code == 2
    assert "'city' is not one of" in result.output
    assert not call


def test_command__a_recipe_with_an_unknown_field_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="recipe 'voc' changes steps"):
        run("photos", recipes={"voc": {"steps": 3}})


def test_command__contradiction_is_a_bad_option() -> None:
    result, call = run("photos", "--iterations", "13")
    assert result.exit_code == 2
    assert "--iterations is 13: take another number" in result.output
    assert not call


@pytest.mark.parametrize(
    "words", ["--iterations 0", "--ptc-weight 10", "--scales 0", "--device gpu", "--box 1 x", "--kinds jpg"]
)
def test_command__value_out_of_range_names_the_option(words: str) -> None:
    result, call = run("photos", *words.split())
    assert result.exit_code == 2
    assert f"'{words.split()[0]}'" in result.output
    assert not call


def test_command__help_shows_defaults_choices_groups_and_brackets() -> None:
    result, _ = run("--help")
    text = " ".join(result.output.split())
    assert "Train [on labels]." in text
    assert "Training steps [all]. [default: 20000;" in text
    assert "May be given several times. [default: 1.0, 0.5" in text
    assert "auto|cpu" in text
    assert "--kinds <png|npy>" in text
    assert "--mirror / --no-mirror" in text
    assert text.index("--help") < text.index("Losses: --ptc-weight")


def test_command__config_is_not_in_the_way_of_commands_without() -> None:
    app = typer.Typer(rich_markup_mode=None)
    heard: list[str] = []

    @command(app)
    def say(word: str) -> None:
        heard.append(word)

    assert CliRunner().invoke(app, ["hello"]).exit_code == 0
    assert heard == ["hello"]


def test_command__hands_the_function_back() -> None:
    def say(config: Settings) -> None: ...

    assert command(typer.Typer())(say) is say


def test_check_limits__names_option_value_and_limit() -> None:
    with pytest.raises(ValueError, match="--ptc-weight is 10: it must be at most 9"):
        Settings(ptc_weight=10)
    with pytest.raises(ValueError, match=r"--scales is 0\.0: it must be at least 0\.1"):
        Settings(scales=(1.0, 0.0))
    with pytest.raises(ValueError, match="--ptc-weight is nan"):
        Settings(ptc_weight=float("nan"))


def test_option_text__a_field_declared_otherwise_is_refused() -> None:
    @dataclass
    class Plain:
        size: int = 3

    with pytest.raises(TypeError, match="field 'size' is not declared by option"):
        option_text(Plain.__dataclass_fields__["size"])


@pytest.mark.parametrize(
    ("words", "background"), [([], 0.5), (["--background", "auto"], "auto"), (["--background", "0.25"], 0.25)]
)
def test_command__a_number_or_a_word(words: list[str], background: float | str) -> None:
    result, call = run("data", *words)
    assert result.exit_code == 0, result.output
    assert call["config"].background == background


@pytest.mark.parametrize("value", ["automatic", "2", "-0.1"])
def test_command__neither_a_number_nor_a_word(value: str) -> None:
    result, call = run("data", "--background", value)
    assert result.exit_code == 2
    assert not call
    assert "background" in result.output


@pytest.mark.parametrize(
    ("words", "crf"),
    [
        (["data"], "off"),
        (["data", "--crf"], "full"),
        (["--crf", "data"], "full"),
        (["--crf", "fast", "data"], "fast"),
        (["data", "--crf=fast"], "fast"),
        (["--crf", "--resume", "data"], "full"),
    ],
)
def test_command__an_option_that_may_stand_alone(words: list[str], crf: str) -> None:
    result, call = run(*words)
    assert result.exit_code == 0, result.output
    assert call["config"].crf == crf
    assert call["data"] == Path("data")


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["data", "--flip"], {"mirror": True}),
        (["data", "--no-flip"], {"mirror": False}),
        (["--fast", "data"], {"crf": "fast"}),
        (["data", "--steps", "3"], {"iterations": 3}),
        (["data", "--steps=3"], {"iterations": 3}),
    ],
)
def test_command__short_and_earlier_names_of_options(words: list[str], changed: dict[str, Any]) -> None:
    result, call = run(*words)
    assert result.exit_code == 0, result.output
    assert call["config"] == replace(Settings(), **changed)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "--fast", "--crf", "full"], "--fast is short for --crf fast: give either --fast or --crf"),
        (["data", "--crf=full", "--fast"], "--fast is short for --crf fast: give either --fast or --crf"),
        (["data", "--fast", "very"], "--fast no longer takes a value (very): use --crf"),
        (["data", "--fast=very"], "--fast no longer takes a value (very): use --crf"),
    ],
)
def test_command__a_shorthand_that_cannot_be_meant(words: list[str], message: str) -> None:
    result, call = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not call


@pytest.mark.parametrize("name", ["--flip", "--steps"])
def test_command__help_leaves_earlier_names_out(name: str) -> None:
    assert name not in run("--help")[0].output


@dataclass(frozen=True, kw_only=True)
class Shared:
    device: Literal["auto", "cpu"] = option("auto", help="Processor.")


def run_stages(*words: str) -> tuple[Result, Call]:
    """Run a command that has the settings of another one beside its own."""
    app = typer.Typer(rich_markup_mode=None)
    call: Call = {}

    @app.callback()
    def top() -> None: ...

    @command(app, recipes={"short": {"iterations": 5}}, recipes_of="first_stage")
    def whole(
        config: Shared = Shared(),
        first_stage: Settings = Settings(crf="fast"),
    ) -> None:
        """Do all."""
        call.update(config=config, first_stage=first_stage)

    return CliRunner().invoke(app, ["whole", *words]), call


def test_command__settings_of_another_command_have_its_name_before_them() -> None:
    result, call = run_stages("--first-stage.iterations", "7", "--first-stage.no-mirror", "--first-stage.scales", "2")
    assert result.exit_code == 0, result.output
    assert call["first_stage"] == Settings(iterations=7, mirror=False, scales=(2.0,), crf="fast")


def test_command__what_is_said_for_all_counts_for_each_unless_it_says_otherwise() -> None:
    assert run_stages("--device", "cpu")[1]["first_stage"].device == "cpu"
    _, call = run_stages("--device", "cpu", "--first-stage.device", "auto")
    assert (call["config"].device, call["first_stage"].device) == ("cpu", "auto")


def test_command__recipes_are_of_the_settings_that_are_named() -> None:
    assert run_stages("--recipe", "short")[1]["first_stage"].iterations == 5


def test_command__an_option_of_another_command_may_stand_alone() -> None:
    assert run_stages("--first-stage.crf")[1]["first_stage"].crf == "full"


def test_command__a_contradiction_says_whose_it_is() -> None:
    result, call = run_stages("--first-stage.iterations", "13")
    assert result.exit_code == 2
    assert "first-stage: --iterations is 13" in result.output
    assert not call


def test_command__help_leaves_the_options_of_others_out() -> None:
    assert "--first-stage" not in run_stages("--help")[0].output


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ([], {}),
        (["--iterations", "auto"], {}),
        (["--steps=auto", "--ptc-weight", "0.5"], {"ptc_weight"}),
        (["--iterations", "9"], {"iterations"}),
        (["--background", "auto"], {"background"}),  # a value of its own
    ],
)
def test_command__auto_is_the_same_as_not_given(words: list[str], given: set[str]) -> None:
    app = typer.Typer(rich_markup_mode=None)
    call: Call = {}

    @app.callback()
    def top() -> None: ...

    @command(app, recipes={"own": None}, planned={"config": ("iterations",)})
    def train(config: Settings, given: Given = Given()) -> None:  # noqa: B008
        """Train."""
        call.update(config=config, given=given)

    result = CliRunner().invoke(app, ["train", *words, "--recipe", "own"])
    assert result.exit_code == 0, result.output
    assert call["given"] == Given("own", {"config": frozenset(given)})
    assert call["config"].iterations == (9 if "iterations" in given else 20_000)
    assert "[default: (auto); x>=1]" in " ".join(CliRunner().invoke(app, ["train", "--help"]).output.split())
