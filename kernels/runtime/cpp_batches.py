"""Compiles the C++ kernels of a graph together instead of one file each.

Inductor writes a file per kernel. The headers before a kernel take many times as long to compile as
the kernel itself. Precompiled they take less, but precompiling takes as long as several files. Here
up to `KERNELS_PER_FILE` kernels of a graph share a file, and no kernel waits for the precompiled
header: a file is compiled with it once it is there. Nor does Inductor wait for the kernels of the
forward graph before it writes those of the backward graph.
"""

import functools
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mammoth_compiled.kernels.runtime.cpp_compiler import (
    header_is_ready,
    kernel_flags,
    note_compilation,
)

# With more, one core would compile a file while the others wait; with fewer, headers dominate.
KERNELS_PER_FILE = 8

# Headers, then one function and nothing else outside it.
_ONE_FUNCTION = re.compile(
    r'\s*(?P<headers>(?:#include [^\n]+\n\s*)+)(?P<start>extern "C"\s+void\s+)kernel\((?P<rest>.*)',
    re.DOTALL,
)
_DIRECTIVE = re.compile(r"^\s*#(?!pragma )", re.MULTILINE)
_PENDING = "_mammoth_pending_kernels"


@dataclass(eq=False)
class _Kernel:
    """A kernel to compile: the types of its arguments, and its source in parts."""

    argtypes: Sequence[str]
    source: str
    headers: str
    start: str
    rest: str

    @classmethod
    def parse(cls, argtypes: Sequence[str], source: str) -> "_Kernel | None":
        """Returns the kernel if it can share a file, else None."""
        match = _ONE_FUNCTION.fullmatch(source)
        if match is None or _DIRECTIVE.search(match["rest"]) or 'extern "C"' in match["rest"]:
            return None
        return cls(argtypes, source, **match.groupdict())


@functools.cache
def compile_kernels_together() -> None:
    """Lets Inductor compile the C++ kernels of a graph together from now on in this process.

    They are compiled in the background until the first one is called, or `finish_kernels` is.
    """
    from torch._inductor.async_compile import AsyncCompile

    compile_alone, wait = AsyncCompile.cpp_pybinding, AsyncCompile.wait

    def cpp_pybinding(self: Any, argtypes: list[str], source_code: str) -> Any:
        kernel = _Kernel.parse(argtypes, source_code)
        if kernel is None:
            return compile_alone(self, argtypes, source_code)
        vars(self).setdefault(_PENDING, []).append(kernel)
        return kernel

    def start_and_wait(self: Any, scope: dict[str, Any]) -> None:
        if kernels := vars(self).pop(_PENDING, []):
            graph = _Graph(kernels, scope, functools.partial(compile_alone, self))
            graph.start(self.submit)
            _unfinished.append(graph)
        wait(self, scope)

    AsyncCompile.cpp_pybinding = cpp_pybinding  # type: ignore[method-assign]
    AsyncCompile.wait = start_and_wait  # type: ignore[method-assign]


def finish_kernels() -> None:
    """Waits for all kernels that are being compiled, and raises the first error."""
    while _unfinished:
        _unfinished[0].finish()


class _Graph:
    """The kernels of a graph while they are compiled.

    Args:
        kernels: The kernels.
        scope: Variables of the code that calls them, some of which are the kernels.
        compile_alone: Compiles a kernel in a file of its own.
    """

    def __init__(
        self,
        kernels: Sequence[_Kernel],
        scope: dict[str, Any],
        compile_alone: Callable[..., Any],
    ) -> None:
        self._kernels = kernels
        self._scope = scope
        self._names = {name: k for name, k in scope.items() if isinstance(k, _Kernel)}
        self._compile_alone = compile_alone
        self._files: list[tuple[Sequence[_Kernel], Callable[[], Any]]] = []

    def start(self, submit: Callable[..., Any]) -> None:
        """Starts compiling, several files at the same time."""
        from torch._inductor.async_compile import get_compile_threads

        def submit_and_note(task: Callable[..., Any]) -> Any:
            note_compilation()
            return submit(task)

        # With one thread a file is compiled when it is loaded.
        submit_fn = submit_and_note if get_compile_threads() > 1 else None
        for file in split(self._kernels):
            load = _kernel_file().load_async(
                _source(file), submit_fn=submit_fn, extra_flags=kernel_flags()
            )
            self._files.append((file, load))
        for name in self._names:
            self._scope[name] = functools.partial(self._call, name)

    def finish(self) -> None:
        """Waits for the kernels and puts them into the scope."""
        if self not in _unfinished:
            return
        _unfinished.remove(self)
        compiled = dict[_Kernel, Callable[..., Any]]()
        try:
            for file, load in self._files:
                compiled |= zip(file, _functions(load(), len(file)), strict=True)
        except Exception:  # an error that has to do with a kernel occurs again
            for kernel in self._kernels:
                found = self._compile_alone(kernel.argtypes, kernel.source)
                compiled[kernel] = found.result() if hasattr(found, "result") else found
        for name, kernel in self._names.items():
            self._scope[name] = compiled[kernel]

    def _call(self, name: str, *args: Any) -> Any:
        self.finish()
        return self._scope[name](*args)


_unfinished: list[_Graph] = []


def split(kernels: Sequence[_Kernel]) -> list[Sequence[_Kernel]]:
    """Returns the kernels by file: as few files as possible, of about the same size."""
    count, num_files = len(kernels), -(-len(kernels) // KERNELS_PER_FILE)
    ends = [i * count // num_files for i in range(num_files + 1)]
    return [kernels[start:end] for start, end in itertools.pairwise(ends)]


def _source(kernels: Sequence[_Kernel]) -> str:
    """Returns the file of some kernels, each with Inductor's Python bindings in a namespace."""
    from torch._inductor.codecache import CppPythonBindingsCodeCache as Bindings

    headers = dict[str, None]()
    parts = []
    for index, kernel in enumerate(kernels):
        name = f"kernel_{index}"
        arguments = (
            f"parse_arg<{argtype.replace('const ', '')}>(args, {position})"
            for position, argtype in enumerate(kernel.argtypes)
        )
        call = Bindings.call_entry_function.format(", ".join(arguments))
        bindings = Bindings.suffix_template.format(
            arg_len=len(kernel.argtypes),
            call_entry_func=call.replace(Bindings.entry_function, name, 1),
            entry_func=name,
            extra_parse_arg="",
        )
        lines = bindings.splitlines()
        includes = [line for line in lines if line.startswith("#include")]
        headers |= dict.fromkeys([*kernel.headers.splitlines(), *includes])
        body = "\n".join(line for line in lines if line not in includes)
        function = f"{kernel.start}{name}({kernel.rest}"
        parts.append(f"namespace {name}_file {{\n{function}\n{body}\n}}")
    return "\n".join(["#define PY_SSIZE_T_CLEAN", *headers, *parts])


@functools.cache
def _kernel_file() -> Any:
    from torch._inductor.codecache import CppPythonBindingsCodeCache

    class KernelFile(CppPythonBindingsCodeCache):
        """Cache of files of kernels; loads the module of the first one."""

        cache: dict[str, Any] = {}  # noqa: RUF012
        entry_function = "kernel_0"

        @classmethod
        def _get_uncompiled_header(cls, device: str) -> str | None:
            return super()._get_uncompiled_header(device) if header_is_ready() else None

    return KernelFile


def _functions(first: Any, count: int) -> list[Callable[..., Any]]:
    """Returns the functions of a file, whose first kernel's module is given."""
    key = first.__name__.rpartition(".")[0]
    modules = [first]
    for index in range(1, count):
        name = f"{key}.kernel_{index}"
        module = sys.modules.get(name)
        if module is None:
            spec = importlib.util.spec_from_file_location(name, first.__file__)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[name] = module
        modules.append(module)
    return [getattr(module, f"kernel_{index}") for index, module in enumerate(modules)]
