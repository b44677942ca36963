"""Export formats, one module each; `base` says how to add one.

Names that users give are resolved here. Modules of this package register their format when they
are imported, and all of them are imported.
"""

from collections.abc import Iterable, Sequence

from torch import nn
from torch._ops import OpOverload
from torch.export import ExportedProgram

from mammoth_compiled.errors import ExportError, unknown_name
from mammoth_compiled.export.bundle.manifest import File
from mammoth_compiled.export.formats.base import (
    FORMATS,
    Format,
    MultiEntryFormat,
    RunnableFormat,
    register_format,
)
from mammoth_compiled.plugins import import_submodules

__all__ = [
    "FORMATS",
    "Format",
    "MultiEntryFormat",
    "RunnableFormat",
    "check_operators",
    "default_formats",
    "format_names",
    "register_format",
    "runtime_name",
    "runtime_of",
    "runtimes",
]

# Operator namespaces that every build of torch has.
_TORCH_NAMESPACES = {"aten", "prim", "prims"}


def default_formats() -> tuple[str, ...]:
    """Returns the names of the formats that are written if the user names none."""
    return tuple(name for name, format_ in FORMATS.items() if format_.default)


def runtimes() -> dict[str, RunnableFormat]:
    """Returns the formats whose files can be run, by name."""
    return {n: format_ for n, format_ in FORMATS.items() if isinstance(format_, RunnableFormat)}


def format_names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Resolves names of formats, without duplicates.

    Args:
        given: Names or aliases, as a sequence or a comma-separated string. None means the
            defaults.

    Raises:
        ExportError: If a name is unknown or there is none; lists the valid ones.
    """
    if given is None:
        return default_formats()
    words = given.split(",") if isinstance(given, str) else given
    names = [_resolve(word.strip(), FORMATS.values()) for word in words]
    for name in names:
        if name not in FORMATS:
            raise ExportError(unknown_name("format", name, FORMATS))
    if not names:
        raise ExportError(f"no format to export to; valid: {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(names))


def runtime_name(given: str) -> str:
    """Resolves the name of a runtime, which is the name of the format that it runs.

    Raises:
        ExportError: If the name is unknown; lists the valid ones.
    """
    valid = runtimes()
    name = _resolve(given, valid.values())
    if name not in valid:
        raise ExportError(unknown_name("runtime", given, valid), "backend")
    return name


def runtime_of(file: File) -> RunnableFormat:
    """Returns the format that runs a model file."""
    return runtimes()[file.format]


def check_operators(program: ExportedProgram, net: nn.Module) -> None:
    """Refuses a program that calls operators which only this machine's packages define.

    Raises:
        ExportError: Names the operators and the formats that can hold them.
    """
    operators = {
        node.target.name()
        for node in program.graph.nodes
        if isinstance(node.target, OpOverload) and node.target.namespace not in _TORCH_NAMESPACES
    }
    if operators:
        others = ",".join(n for n, format_ in FORMATS.items() if not format_.torch_operators_only)
        raise ExportError(
            f"backbone {type(net).__name__} calls {', '.join(sorted(operators))}, which torch "
            "itself does not have, and a portable file could not be opened elsewhere. Write the "
            f"backbone with torch's own operators, or choose --formats {others}"
        )


def _resolve(name: str, formats: Iterable[Format]) -> str:
    """Returns the name that an alias stands for, or the name itself."""
    return next((format_.name for format_ in formats if name in format_.aliases), name)


import_submodules(__name__, __path__)
