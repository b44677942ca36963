"""Imports a user's file or module, so that what it registers has a name here."""

import importlib
import importlib.util
import sys
from pathlib import Path

from mammoth_compiled.errors import ConfigError


def import_plugin(spec: str) -> None:
    """Imports a Python file by path, or a module by its dotted name.

    Args:
        spec: `path/to/file.py` or `package.module`.

    Raises:
        ConfigError: If it is not there or fails to import; says why.
    """
    path = Path(spec)
    try:
        if spec.endswith(".py"):
            _import_file(path)
        else:
            importlib.import_module(spec)
    except Exception as error:  # the code is the user's: it may raise anything
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
    # Registered under its name, as workers that unpickle the file's classes look it up there.
    registered = sys.modules.setdefault(path.stem, module) is module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        if registered:
            del sys.modules[path.stem]
        raise
