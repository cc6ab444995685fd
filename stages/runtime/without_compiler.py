"""Import packages without torch's compiler, which they import and toco uses only for `--compile`.

torchvision, timm and Lightning Fabric each import one name of `torch._dynamo`. This imports all of the compiler, sympy,
triton and torch.distributed: a second of CPU time.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, spec_from_loader
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Give the packages that are imported in this block stand-ins for these names, unless torch._dynamo is loaded.

    Each does what it stands for, and keeps doing it when the compiler is imported later. All other names and submodules
    import the true compiler, also in this block.
    """
    if COMPILER in sys.modules:
        yield
        return
    finder = _TrueSubmodules()
    stand_ins = {
        COMPILER: _StandIn(COMPILER, __path__=[], disable=_disable, OptimizedModule=_CompiledModule),
        f"{COMPILER}.utils": _StandIn(f"{COMPILER}.utils", is_compile_supported=_is_compile_supported),
    }
    sys.modules.update(stand_ins)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        _remove_stand_ins()


class _StandIn(ModuleType):
    def __init__(self, name: str, **light: object) -> None:
        super().__init__(name)
        vars(self).update(light)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # import statements ask for __path__ and the like
            raise AttributeError(name)
        _remove_stand_ins()
        return getattr(import_module(self.__name__), name)


def _remove_stand_ins() -> None:
    for name in (COMPILER, f"{COMPILER}.utils"):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


class _TrueSubmodules(MetaPathFinder):
    """Imports the true compiler before any submodule of it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not (fullname.startswith(f"{COMPILER}.") and isinstance(sys.modules.get(COMPILER), _StandIn)):
            return None
        _remove_stand_ins()
        import_module(COMPILER)
        loaded = sys.modules.get(fullname)
        return find_spec(fullname) if loaded is None else spec_from_loader(fullname, _Loaded(loaded))


class _Loaded(Loader):
    """Gives an import statement a module that was imported meanwhile."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


def _disable(function: Any = None, recursive: bool = True, **how: Any) -> Any:
    """Leave a function out of compilation (timm, at import): torch's own decorator that imports the compiler late."""
    from torch._compile import _disable_dynamo

    return _disable_dynamo(function, recursive)


def _is_compile_supported(device_type: Any) -> Any:
    """Return whether a device can run compiled code (torchvision, in `roi_align`)."""
    return import_module(f"{COMPILER}.utils").is_compile_supported(device_type)


class _CompiledModules(type):
    def __instancecheck__(cls, instance: object) -> bool:
        compiler = sys.modules.get(COMPILER)
        if compiler is None or isinstance(compiler, _StandIn):
            return False
        return isinstance(instance, compiler.OptimizedModule)


class _CompiledModule(metaclass=_CompiledModules):
    """The class of compiled modules (Lightning Fabric, in isinstance): there are none without the compiler."""
