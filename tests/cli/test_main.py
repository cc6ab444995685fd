import errno
import signal

import pytest
import torch

from data.errors import ArtifactError, DataError, SettingsError, UserError
from toco_cli.commands import app
from toco_cli.main import describe, going_on, main


@pytest.fixture
def failing_with(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command `toco fail` that raises what the test puts into the list."""
    errors: list[BaseException] = []
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))

    @app.command()
    def fail(number: int = 0, resume: bool = False) -> None:
        raise errors[0]

    @app.command()
    def fail_for_good() -> None:
        raise errors[0]

    return errors


def test_main__without_words_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: toco ")


def test_main__version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("toco 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train-kam"], "toco: error: No such command 'train-kam'"),
        (["--fast"], "toco: error: No such option: --fast (see 'toco --help')"),
        (["fail", "--number", "x"], "(see 'toco fail --help')"),
    ],
)
def test_main__bad_options_are_one_line_and_code_2(
    failing_with: list[BaseException], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_main__a_bad_value_is_one_line_and_code_1(
    failing_with: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    failing_with.append(DataError("'x.png' is not an image:\nlook at it"))
    assert main(["fail"]) == 1
    assert capsys.readouterr().err == "toco: error: 'x.png' is not an image: look at it\n"


@pytest.mark.parametrize("words", [["--debug", "fail"], ["fail", "--debug"]])
def test_main__debug_shows_the_traceback(
    failing_with: list[BaseException], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    failing_with.append(ValueError("wrong"))
    assert main(words) == 1
    assert "Traceback" in capsys.readouterr().err


def test_main__ctrl_c_says_how_to_go_on(failing_with: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing_with.append(KeyboardInterrupt())
    assert main(["fail"]) == 130
    expected = "toco: stopped; what was finished is kept, run again with --resume\n"
    assert capsys.readouterr().err == expected
    assert main(["fail-for-good"]) == 130
    assert capsys.readouterr().err == "toco: stopped\n"


def test_going_on__by_resume_by_itself_or_not_at_all() -> None:
    assert going_on(["make-labels", "RUN"]) == "what was finished is kept, run again with --resume"
    assert going_on(["run", "DATA"]) == "what was finished is kept, run the same again"
    assert going_on(["run", "DATA", "--overwrite"]).endswith("run the same again without --overwrite")
    assert going_on(["evaluate", "RUN"]) == ""
    assert going_on([]) == ""


def test_describe__a_full_disk() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "run/cam/checkpoint")
    assert describe(full).startswith("the disk is full, writing 'run/cam/checkpoint': free some space")
    wrapped = RuntimeError("I/O error: No space left on device (os error 28)")
    assert describe(wrapped).startswith("the disk is full: free some space")


def test_describe__a_lost_process() -> None:
    lost = RuntimeError(
        "[third_party/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer. " + "x" * 200
    )
    unreachable = torch.distributed.DistNetworkError("Broken pipe")
    said = describe(lost, (), "run again with --resume")
    assert describe(unreachable, (), "run again with --resume") == said
    assert said == "another process of this run ended, or cannot be reached any more; run again with --resume"


def test_describe__files() -> None:
    assert describe(FileNotFoundError(errno.ENOENT, "No such file", "a.csv")) == "'a.csv' does not exist"
    permission = describe(PermissionError(errno.EACCES, "Permission denied", "a.csv"))
    assert permission == "no permission to read or write 'a.csv'"
    assert describe(IsADirectoryError(errno.EISDIR, "Is a directory", "a")) == "'a': Is a directory"
    assert describe(OSError("cannot read 'a.h5'")) == "cannot read 'a.h5'"


def test_describe__memory() -> None:
    assert "--batch-size smaller" in describe(MemoryError(), {"--batch-size", "--out"})
    torch_error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert "--batch-size or --image-size smaller" in describe(torch_error, {"--batch-size", "--image-size"})
    assert "--batch-size" not in describe(torch_error)


@pytest.mark.parametrize("kind", [UserError, ArtifactError, DataError, SettingsError])
def test_describe__user_errors_are_their_own_text(kind: type[UserError]) -> None:
    assert describe(kind("'run' has no model")) == "'run' has no model"


def test_describe__errors_of_the_program_point_to_debug() -> None:
    assert describe(ValueError("bad shape")).startswith("ValueError: bad shape (not foreseen:")
    assert describe(KeyError("x")).startswith("KeyError: 'x' (not foreseen:")


def test_main__a_child_leaves_ctrl_c_to_the_process_that_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        main(["--version"])
        assert signal.getsignal(signal.SIGINT) is before
        monkeypatch.setenv("LOCAL_RANK", "1")
        main(["--version"])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
