"""Each case runs in a process that has torch, but not its compiler."""

import subprocess
import sys

import pytest

CASES = {
    "the names cost nothing": """
from torch._dynamo import OptimizedModule
from torch._dynamo.utils import is_compile_supported
late = torch.compiler.disable(lambda: 5, reason="a test")
assert not isinstance(torch.nn.Linear(1, 1), OptimizedModule)
END
assert not [name for name in sys.modules if name.startswith("torch._dynamo")], "imported"
assert late() == 5
import torch._dynamo
assert isinstance(torch.compile(torch.nn.Linear(1, 1)), OptimizedModule)
assert isinstance(is_compile_supported("cpu"), bool)
""",
    "another name": """
from torch._dynamo import reset
END
assert reset is sys.modules["torch._dynamo"].reset
""",
    "another name of the submodule": """
from torch._dynamo.utils import counters
END
import torch._dynamo
assert counters is torch._dynamo.utils.counters
""",
    "a submodule that the compiler imports": """
import torch._dynamo.config
from torch._dynamo.eval_frame import OptimizedModule
END
import torch._dynamo
assert sys.modules["torch._dynamo.config"] is torch._dynamo.config
assert torch._dynamo.config.__spec__.loader.__class__.__name__ == "SourceFileLoader"
assert torch._dynamo.OptimizedModule is OptimizedModule
""",
    "a submodule that it does not import": """
import torch._dynamo.testing
END
import torch._dynamo
assert torch._dynamo.testing.CompileCounter
""",
}


@pytest.mark.slow  # new processes import torch
@pytest.mark.parametrize("case", CASES)
def test_without_compiler(case: str) -> None:
    inside, after = CASES[case].split("END\n")
    indented = "".join(f"    {line}\n" for line in inside.strip().splitlines())
    program = (
        "import sys, torch\nfrom stages.runtime.without_compiler import without_compiler\n"
        f"finders = list(sys.meta_path)\nwith without_compiler():\n{indented}assert sys.meta_path == finders\n{after}"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
