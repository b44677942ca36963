"""State that belongs to a thread, and threads, are listed here with the thread that needs them.

On CUDA, autograd runs the backward of a step in a thread of its own, which sees neither the context
variables nor the thread-locals of the thread that runs the step. What only that thread sets would
hold for the forward alone. So everything that is bound to a thread, and every thread, is looked at
once and explained below.
"""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("mammoth_compiled", "kernels", "export")

BOUND_TO_A_THREAD = {
    "ContextVar",
    "copy_context",
    "local",  # that of threading alone
    "setprofile",
    "settrace",
    "Thread",
    "ThreadPoolExecutor",
    "TorchDispatchMode",
    "TorchFunctionMode",
}
# What a backward must see is module-level: `runtime.tiles.override_tiles`, for the autotuner, and
# `runtime.launch.record_launches`.
EXPLAINED = {
    "kernels/runtime/cpp_compiler.py": "a thread that compiles, with the settings of its caller",
    "kernels/runtime/cpp_library.py": "read while a graph for a CPU is lowered, by its caller",
    "kernels/runtime/deferred.py": "counters that a step advances; no backward has any",
    "mammoth_compiled/compiler/ahead.py": "read by the caller of a graph; its backward never runs",
    "mammoth_compiled/compiler/backend.py": "the backward is lowered with the forward's settings",
    "mammoth_compiled/compiler/host_randomness.py": "read where Dynamo traces, by the caller",
    "mammoth_compiled/datasets/decode.py": "threads that decode images and need no settings",
    "mammoth_compiled/engine/cost.py": "counts operations of a forward without gradients",
    "mammoth_compiled/engine/direct_calls.py": "calls of a step; a backward makes none of its own",
    "mammoth_compiled/memory.py": "tensors that a constructor allocates",
    "mammoth_compiled/sweep/turns.py": "one thread for each run, with the settings of its caller",
    "export/bundle/finalize.py": "threads that hash files and need no settings",
    "export/capture/batch_free.py": "calls while a backbone is captured, without gradients",
    "export/update.py": "threads that write files and need no settings",
}


def names_in(path):
    """Names that a module imports or uses as attributes."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in BOUND_TO_A_THREAD):  # parsing takes longer
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            if node.attr != "local" or owner == "threading":
                yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def test_everything_that_is_bound_to_a_thread_is_explained():
    found = {
        str(path.relative_to(REPOSITORY))
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        if "node_modules" not in path.parts and BOUND_TO_A_THREAD.intersection(names_in(path))
    }
    assert found == set(EXPLAINED)
