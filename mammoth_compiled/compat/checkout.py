"""Finds the files of a Mammoth checkout that a file imports, such as helpers beside a model."""

import ast
from collections.abc import Iterator
from pathlib import Path

from mammoth_compiled.compat.rename import MODULES, PACKAGES, absolute_name
from mammoth_compiled.reading import read_file

# Larger files are not Python code.
MAX_BYTES = 2**24


def read_source(path: Path) -> str:
    """Returns the text of a file of Python code."""
    return read_file(path, MAX_BYTES).decode()


def checkout_of(path: Path) -> Path | None:
    """Returns the closest folder above a file that has Mammoth's folders `models` and `utils`."""
    for folder in path.resolve().parents:
        if (folder / "models").is_dir() and (folder / "utils").is_dir():
            return folder
    return None


def package_of(path: Path) -> str | None:
    """Returns Mammoth's package of a file, such as "models.utils"; None outside of a checkout."""
    root = checkout_of(path)
    return None if root is None else ".".join(path.resolve().relative_to(root).parent.parts)


def imported_files(path: Path) -> dict[str, Path]:
    """Returns what a file of a checkout imports, and what that imports in turn.

    Args:
        path: The file.

    Returns:
        By Mammoth's name of the module: its file, or a folder without `__init__.py`. Modules with a
        counterpart in `mammoth_compiled.compat.mammoth` are not among them.

    Raises:
        SyntaxError: If a file is not valid Python.
    """
    root = checkout_of(path)
    if root is None:
        return {}
    found: dict[str, Path] = {}
    pending = [path.resolve()]
    while pending:
        for module in _imported_modules(pending.pop()):
            source = _source_of(module, root)
            if source is None or module in MODULES or module in found:
                continue
            found[module] = source
            if source.is_file():
                pending.append(source)
    return found


def local_path(module: str, source: Path) -> Path:
    """Returns where the copy of a module belongs, relative to the folder on Python's path.

    Example:
        >>> local_path("models.lora_utils.merge", Path("mammoth/models/lora_utils/merge.py"))
        PosixPath('lora_utils/merge.py')
    """
    path = Path(*module.split(".")[1:])
    return path / source.name if source.name == "__init__.py" else path.with_suffix(".py")


def _imported_modules(path: Path) -> Iterator[str]:
    """Yields the names of modules of Mammoth that a file may import, also without need."""
    package = package_of(path)
    for node in ast.walk(ast.parse(read_source(path), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = absolute_name(node, package)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if "." in name and name.split(".")[0] in PACKAGES)


def _source_of(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    candidates = (path.with_name(f"{path.name}.py"), path / "__init__.py", path)
    return next((file for file in candidates if file.exists()), None)
