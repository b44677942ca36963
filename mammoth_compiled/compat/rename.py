"""Renames the imports of files that were written for Mammoth."""

import ast
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

TARGET = "mammoth_compiled.compat.mammoth"
# Mammoth's modules, and the modules of `TARGET` that define the same names.
MODULES = {
    "backbone": "backbones",
    "backbone.utils.modules": "backbones",
    "datasets": "datasets",
    "datasets.utils": "datasets",
    "datasets.utils.continual_dataset": "datasets",
    "models": "model",
    "models.gem": "gradients",
    "models.utils": "model",
    "models.utils.continual_model": "model",
    "utils": "utils",
    "utils.args": "arguments",
    "utils.augmentations": "augmentations",
    "utils.batch_norm": "utils",
    "utils.buffer": "buffer",
    "utils.conf": "utils",
    "utils.evaluate": "evaluation",
    "utils.gss_buffer": "gss_buffer",
    "utils.ring_buffer": "ring_buffer",
    "utils.schedulers": "schedulers",
    "utils.status": "utils",
}
PACKAGES = ("backbone", "datasets", "models", "utils")


class Renamed(NamedTuple):
    """A renamed file.

    Attributes:
        source: The Python code.
        unknown: Imports without a counterpart, as "line N: module".
    """

    source: str
    unknown: list[str]


class _Edit(NamedTuple):
    """Replaces bytes `start` to `end` of a line, from 0."""

    line: int
    start: int
    end: int
    text: str


def rename(
    source: str, copies: Mapping[str, str] | None = None, package: str | None = None
) -> Renamed:
    """Renames the imports of Mammoth's modules.

    Calls of `self.net.forward(...)` become `self.net(...)`, since only these run compiled.
    Everything else stays as it is.

    Args:
        source: Python code written for Mammoth.
        copies: By name of a module of Mammoth that is renamed as well: the name by which it will
            be importable.
        package: Mammoth's package that the file belongs to, such as "models.utils". Relative
            imports of modules with a counterpart are renamed if it is given.

    Raises:
        SyntaxError: If it is not valid Python.

    Example:
        >>> rename("from utils.buffer import Buffer  # replay").source
        'from mammoth_compiled.compat.mammoth.buffer import Buffer  # replay'
        >>> rename("import utils.loggers").unknown
        ['line 1: utils.loggers']
        >>> rename("from models.agem import project", {"models.agem": "agem"}).source
        'from agem import project'
    """
    counterparts = dict(copies or {})
    counterparts |= {name: f"{TARGET}.{module}" for name, module in MODULES.items()}
    lines = [line.encode() for line in source.split("\n")]  # as the parser counts lines
    edits: list[_Edit] = []
    unknown: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "self.net.forward":
            assert isinstance(node.func, ast.Attribute)
            start, end = node.func.value.end_col_offset, node.func.end_col_offset
            if node.func.value.end_lineno == node.func.end_lineno and start and end:
                edits.append(_Edit(node.func.lineno - 1, start, end, ""))
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        for module, pattern in _imported(node, package):
            position = re.search(pattern.encode(), lines[node.lineno - 1][node.col_offset :])
            if module not in counterparts or position is None:
                unknown.append((node.lineno, module))
                continue
            start, end = (node.col_offset + offset for offset in position.span(1))
            edits.append(_Edit(node.lineno - 1, start, end, counterparts[module]))
    # From the end of each line, so that earlier positions stay valid.
    for edit in sorted(edits, reverse=True):
        line = lines[edit.line]
        lines[edit.line] = line[: edit.start] + edit.text.encode() + line[edit.end :]
    names = [f"line {line}: {module}" for line, module in sorted(unknown)]
    return Renamed(b"\n".join(lines).decode(), names)


def _imported(node: ast.Import | ast.ImportFrom, package: str | None) -> Iterator[tuple[str, str]]:
    """Yields Mammoth's modules that a statement imports, and patterns whose group 1 is the name."""
    if isinstance(node, ast.ImportFrom):
        module = absolute_name(node, package) if package or not node.level else ""
        # Relative imports of other modules stay valid.
        if _is_mammoth(module) and (not node.level or module in MODULES):
            written = "." * node.level + (node.module or "")
            yield module, rf"from\s+({re.escape(written)})\s+import\b"
        return
    for alias in filter(lambda alias: _is_mammoth(alias.name), node.names):
        # `import utils.conf` binds `utils`, which no renamed import would.
        end = rf"\s+as\s+{alias.asname}\b" if alias.asname else r"(?!)"
        yield alias.name, rf"\b({re.escape(alias.name)}){end}"


def absolute_name(node: ast.ImportFrom, package: str | None) -> str:
    """Returns the name of the module that a statement imports from, in a file of a package.

    Example:
        >>> node = ast.parse("from ..buffer import Buffer").body[0]
        >>> absolute_name(node, "utils.losses")
        'utils.buffer'
    """
    above = (package or "").split(".")
    parts = above[: len(above) - node.level + 1] if node.level else []
    return ".".join([*parts, *([node.module] if node.module else [])])


def _is_mammoth(module: str) -> bool:
    return module.split(".")[0] in PACKAGES
