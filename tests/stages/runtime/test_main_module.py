import subprocess
import sys
from pathlib import Path

SCRIPT = """
import math, multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from stages.runtime.main_module import hidden_main_module

print("the script runs", flush=True)
with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
    with hidden_main_module():
        future = pool.submit(math.sqrt, 9.0)
    print(future.result(), __file__ == sys.argv[0])
"""


def test_hidden_main_module__processes_do_not_run_the_script_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(root), "PATH": ""},
        timeout=60,
        check=False,
    )
    assert (done.stdout.splitlines(), done.stderr) == (["the script runs", "3.0 True"], "")
