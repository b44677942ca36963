"""Finds the operations by their folders, so that a new one is listed nowhere."""

import importlib
from pathlib import Path
from types import ModuleType

from mammoth_compiled.kernels.runtime.cases import LaunchCase, TuningCase

_FOLDER = Path(__file__).parent


def op_names() -> list[str]:
    """Returns the names of all operations."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/op.py"))


def triton_op_names() -> list[str]:
    """Returns the names of the operations that have Triton kernels."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/tiles.json"))


def launch_cases(op: str) -> list[LaunchCase]:
    """Returns the cases with which an operation's Triton kernels are checked."""
    return list(_cases_module(op).launch_cases())


def tuning_cases() -> list[TuningCase]:
    """Returns the cases of all operations that are timed on a GPU, to tune and to report."""
    return [
        case
        for op in op_names()
        if (_FOLDER / op / "cases.py").exists()
        for case in getattr(_cases_module(op), "TUNING_CASES", ())
    ]


def _cases_module(op: str) -> ModuleType:
    return importlib.import_module(f"mammoth_compiled.kernels.{op}.cases")
