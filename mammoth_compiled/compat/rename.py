"""Renames the imports of files that were written for Mammoth."""

import ast
import re
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


def rename(source: str) -> Renamed:
    """Renames the imports of Mammoth's modules; everything else stays as it is.

    Args:
        source: Python code written for Mammoth.

    Raises:
        SyntaxError: If it is not valid Python.

    Example:
        >>> rename("from utils.buffer import Buffer  # replay").source
        'from mammoth_compiled.compat.mammoth.buffer import Buffer  # replay'
        >>> rename("import utils.loggers").unknown
        ['line 1: utils.loggers']
    """
    lines = source.splitlines(keepends=True)
    unknown: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names, pattern = [node.module], r"(from\s+){}(?=\s+import\b)"
        elif isinstance(node, ast.Import):
            names, pattern = [a.name for a in node.names if a.asname], r"(\b){}(?=\s+as\b)"
            bare = [a.name for a in node.names if not a.asname]
            unknown += [(node.lineno, name) for name in bare if _is_mammoth(name)]
        else:
            continue
        for name in filter(_is_mammoth, names):
            if name not in MODULES:
                unknown.append((node.lineno, name))
                continue
            line = node.lineno - 1
            new = rf"\g<1>{TARGET}.{MODULES[name]}"
            # Source offsets count bytes.
            start = len(lines[line].encode()[: node.col_offset].decode())
            statement = re.sub(pattern.format(re.escape(name)), new, lines[line][start:], count=1)
            lines[line] = lines[line][:start] + statement
    return Renamed("".join(lines), [f"line {line}: {name}" for line, name in sorted(unknown)])


def _is_mammoth(module: str) -> bool:
    return module.split(".")[0] in PACKAGES
