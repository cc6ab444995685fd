"""Child processes that fork from one server, in which torch and the product are imported already.

A new interpreter needs many seconds for these imports, a fork needs none.
"""

import json
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PRELOADED = (
    "__main__",
    "segmentation_models_pytorch",
    "toco_cli.commands",
    "stages.run",
    "stages.predict",
    "stages.report",
)
SECONDS = 300  # for processes of a test; more means that they wait for each other


def preload(context: type[BaseContext]) -> Callable[..., None]:
    """Return a `set_forkserver_preload` that also asks for the modules above, whoever starts the server."""
    plain = context.set_forkserver_preload

    def with_ours(self: BaseContext, module_names: list[str]) -> None:
        plain(self, list(dict.fromkeys([*PRELOADED, *module_names])))

    return with_ours


def start(target: Callable[..., object], *arguments: object) -> BaseProcess:
    """Start a function in a child process of the server."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def run(
    target: Callable[..., object], *arguments: object, ranks: int = 1, nodes: int = 1
) -> list[subprocess.CompletedProcess[str]]:
    """Run a function in child processes and wait for them.

    Args:
        target: What each of them calls; its module is importable.
        arguments: What it is called with.
        ranks: Processes on each node; several are numbered as torchrun does.
        nodes: Machines that this one plays.

    Returns:
        Exit code (minus the signal, if killed by one), standard output and error of each rank.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        supervisor = start(supervise, target, arguments, ranks, nodes, folder)
        supervisor.join(SECONDS)
        if supervisor.exitcode is None:
            assert supervisor.pid is not None
            os.killpg(supervisor.pid, signal.SIGKILL)
        texts = [[(folder / f"{rank}.{kind}").read_text() for kind in ("out", "err")] for rank in range(ranks * nodes)]
        assert supervisor.exitcode == 0, texts
        codes = json.loads((folder / "codes.json").read_text())
    return [subprocess.CompletedProcess(target.__name__, code, *text) for code, text in zip(codes, texts, strict=True)]


def run_anew(target: Callable[..., object], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a function in a new interpreter, which is slow; toco then starts its other processes itself."""
    with TemporaryDirectory() as name:
        call = Path(name) / "call.pickle"
        call.write_bytes(pickle.dumps((target, arguments)))
        root = Path(__file__).parents[2]
        return subprocess.run(
            [sys.executable, __file__, str(call)],
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"},
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # signals to its group do not reach the tests
        )


def toco(*words: str, ranks: int = 1, nodes: int = 1) -> list[subprocess.CompletedProcess[str]]:
    """Run the command line in child processes; see `run`."""
    return run(call_toco, *words, ranks=ranks, nodes=nodes)


def call_toco(*words: str) -> None:
    import small_heads  # type: ignore[import-not-found]  # noqa: F401

    from toco_cli.main import main

    sys.exit(main(words))


def supervise(target: Callable[..., object], arguments: tuple[Any, ...], ranks: int, nodes: int, folder: Path) -> None:
    """Fork the ranks and write down how they ended."""
    os.setsid()  # signals to its group do not reach the tests
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = multiprocessing.get_context("fork")  # nothing has started threads here
    processes = []
    for rank in range(ranks * nodes):
        torchrun = {
            "TORCHELASTIC_RUN_ID": "none",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": ranks * nodes,
            "LOCAL_WORLD_SIZE": ranks,
            "RANK": rank,
            "GROUP_RANK": rank // ranks,
            "LOCAL_RANK": rank % ranks,
        }
        environment = {name: str(value) for name, value in torchrun.items()} if ranks * nodes > 1 else {}
        processes.append(context.Process(target=work, args=(target, arguments, environment, folder / str(rank))))
        processes[-1].start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is for the ranks
    for process in processes:
        process.join()
    (folder / "codes.json").write_text(json.dumps([process.exitcode for process in processes]))


def work(
    target: Callable[..., object], arguments: tuple[object, ...], environment: dict[str, str], output: Path
) -> None:
    """Call the function as one rank; what it and its children print goes to files."""
    for descriptor, kind in ((1, "out"), (2, "err")):
        with output.with_name(f"{output.name}.{kind}").open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    target(*arguments)


if __name__ == "__main__":
    function, values = pickle.loads(Path(sys.argv[1]).read_bytes())
    function(*values)
