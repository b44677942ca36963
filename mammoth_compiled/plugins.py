"""Imports code that registers itself: a package's own modules, and a user's file or module."""

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from mammoth_compiled.errors import ConfigError


def import_submodules(package: str, path: Iterable[str]) -> list[ModuleType]:
    """Imports every module of a package, in alphabetical order.

    A package whose modules register something calls this in its `__init__.py`, so that a new
    module is found without being listed anywhere. Import errors propagate.

    Args:
        package: Name of the package, `__name__`.
        path: Its folders, `__path__`.

    Returns:
        The modules.
    """
    names = sorted(module.name for module in pkgutil.iter_modules(path))
    return [importlib.import_module(f"{package}.{name}") for name in names]


def import_plugin(spec: str) -> None:
    """Imports a Python file by path, or a module by its dotted name.

    Args:
        spec: `path/to/file.py` or `package.module`.

    Raises:
        ConfigError: If the file or module does not exist or fails to import; gives the reason.
    """
    path = Path(spec)
    try:
        if spec.endswith(".py"):
            _import_file(path)
        else:
            importlib.import_module(spec)
    except Exception as error:  # user code may raise anything
        raise ConfigError(
            f"--import {spec}: {type(error).__name__}: {error}. "
            "Give a Python file (path/to/file.py) or a module name"
        ) from error


def _import_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    # DataLoader workers unpickle the file's classes by this module name.
    registered = sys.modules.setdefault(path.stem, module) is module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        if registered:
            del sys.modules[path.stem]
        raise
