import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import tomlkit
import torch

from data.errors import ArtifactError, DataError, SettingsError, UserError
from toco_cli.commands import app
from toco_cli.main import click_command, describe, how_to_resume, main, set_environment


@pytest.fixture
def failing_with(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A command `toco fail` that raises what the test puts into the list."""
    errors: list[BaseException] = []
    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))

    @app.command()
    def fail(number: int = 0, resume: bool = False) -> None:
        raise errors[0]

    @app.command()
    def fail_for_good() -> None:
        raise errors[0]

    click_command.cache_clear()
    yield errors
    click_command.cache_clear()


def test_main__without_words_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("Usage: toco ")


def test_main__version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"toco {version('toco')}\n"


def test_version__is_that_of_the_project_file() -> None:
    project = tomlkit.parse((Path(__file__).parents[2] / "pyproject.toml").read_text()).unwrap()["project"]
    assert version("toco") == project["version"]


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


def test_main__ctrl_c_says_how_to_resume(failing_with: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    failing_with.append(KeyboardInterrupt())
    assert main(["fail"]) == 130
    expected = "toco: stopped; finished work is kept: run it again with --resume\n"
    assert capsys.readouterr().err == expected
    assert main(["fail-for-good"]) == 130
    assert capsys.readouterr().err == "toco: stopped\n"


def test_how_to_resume__with_an_option_or_without_or_not_at_all() -> None:
    assert how_to_resume(["make-labels", "RUN"]) == "finished work is kept: run it again with --resume"
    assert how_to_resume(["run", "DATA"]) == "finished work is kept: run the same command again"
    assert how_to_resume(["run", "DATA", "--overwrite"]).endswith("run the same command again without --overwrite")
    assert how_to_resume(["evaluate", "RUN"]) == ""
    assert how_to_resume([]) == ""


def test_describe__a_full_disk() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "run/cam/checkpoint")
    assert describe(full).startswith("the disk is full, writing 'run/cam/checkpoint': free some space")
    wrapped = RuntimeError("I/O error: No space left on device (os error 28)")
    assert describe(wrapped).startswith("the disk is full: free some space")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"),
        RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"),
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. It is possible that dataloader's "
                     "workers are out of shared memory. Please try to raise your shared memory limit."),
        OSError(errno.ENOSPC, "No space left on device", "/dev/shm/sem.x"),
    ],
)  # fmt: skip
def test_describe__shared_memory_is_not_the_disk(error: Exception) -> None:
    said = describe(error, (), "run again with --resume")
    assert said.startswith("shared memory (/dev/shm) is too small for the processes that load images: use --workers 0")
    assert said.endswith("docker run --shm-size 8g; run again with --resume")


def test_describe__folders_in_shared_memory() -> None:
    assert describe(DataError("/dev/shm/photos holds no images")) == "/dev/shm/photos holds no images"
    full = OSError(errno.ENOSPC, "No space left on device", "/dev/shm/run/cam/checkpoint.pt")
    assert describe(full).startswith("the disk is full, writing '/dev/shm/run/cam/checkpoint.pt': free some space")


def test_describe__a_lost_process() -> None:
    lost = RuntimeError(
        "[third_party/gloo/transport/tcp/pair.cc:545] Read error: Connection reset by peer. " + "x" * 200
    )
    unreachable = torch.distributed.DistNetworkError("Broken pipe")
    said = describe(lost, (), "run again with --resume")
    assert describe(unreachable, (), "run again with --resume") == said
    assert said == "another process of this run ended or cannot be reached any more; run again with --resume"


def test_describe__files() -> None:
    assert describe(FileNotFoundError(errno.ENOENT, "No such file", "a.csv")) == "'a.csv' does not exist"
    permission = describe(PermissionError(errno.EACCES, "Permission denied", "a.csv"))
    assert permission == "no permission to read or write 'a.csv'"
    assert describe(IsADirectoryError(errno.EISDIR, "Is a directory", "a")) == "'a': Is a directory"
    assert describe(OSError("cannot read 'a.h5'")) == "cannot read 'a.h5'"


def test_describe__memory() -> None:
    assert "use a smaller --batch-size" in describe(MemoryError(), {"--batch-size", "--out"})
    torch_error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    assert "use a smaller --batch-size or --image-size" in describe(torch_error, {"--batch-size", "--image-size"})
    assert "--batch-size" not in describe(torch_error)


@pytest.mark.parametrize("kind", [UserError, ArtifactError, DataError, SettingsError])
def test_describe__user_errors_are_their_own_text(kind: type[UserError]) -> None:
    assert describe(kind("'run' has no model")) == "'run' has no model"


def test_describe__errors_of_the_program_point_to_debug() -> None:
    assert describe(ValueError("bad shape")).startswith("ValueError: bad shape (unexpected error:")
    assert describe(KeyError("x")).startswith("KeyError: 'x' (unexpected error:")


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


def test_main__python_m_runs_the_same_command() -> None:
    run = subprocess.run([sys.executable, "-m", "toco_cli", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == f"toco {version('toco')}\n"


def test_set_environment__lets_idle_threads_sleep() -> None:
    variables: dict[str, str] = {}
    set_environment(variables)
    assert variables == {"TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_WAIT_POLICY": "passive"}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_set_environment__keeps_what_the_user_set(name: str) -> None:
    variables = {name: "active", "TORCH_CPP_LOG_LEVEL": "INFO"}
    set_environment(variables)
    assert variables == {name: "active", "TORCH_CPP_LOG_LEVEL": "INFO"}
