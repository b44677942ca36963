"""Export: writes a trained backbone as files that run without this package.

`export_bundle` writes a directory of files, each verified against eager mode; `load_bundle` runs
it, `update_bundle` replaces its weights, and `verify_bundle` checks it on another machine.
"""

if __name__ != "mammoth_compiled.export":
    raise ImportError("import mammoth_compiled.export, not export")

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mammoth_compiled.export.export import export_bundle
    from mammoth_compiled.export.load import Bundle, load_bundle
    from mammoth_compiled.export.update import update_bundle
    from mammoth_compiled.export.verify import verify_bundle

__all__ = ["Bundle", "export_bundle", "load_bundle", "update_bundle", "verify_bundle"]

_MODULES = {
    "Bundle": "load",
    "export_bundle": "export",
    "load_bundle": "load",
    "update_bundle": "update",
    "verify_bundle": "verify",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is used: torch takes seconds, `--help` does not."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
