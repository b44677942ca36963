"""Continual-learning experiments at compiled speed, and backbones one can ship.

The public names: those of Mammoth Lite, and `evaluate`, `export_bundle`, `load_bundle`,
`update_bundle`.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

# First, because the other imports take seconds and Ctrl-C may come in between.
import mammoth_compiled.startup  # noqa: F401  # isort: split

if TYPE_CHECKING:
    from mammoth_compiled.public import *

try:
    __version__ = version("mammoth-compiled")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = [
    "Buffer",
    "ContinualDataset",
    "ContinualModel",
    "MammothBackbone",
    "MammothDataset",
    "ReturnTypes",
    "__version__",
    "add_rehearsal_args",
    "base_path",
    "evaluate",
    "export_bundle",
    "get_avail_args",
    "get_backbone_names",
    "get_dataset_names",
    "get_device",
    "get_model_names",
    "load_bundle",
    "load_runner",
    "register_backbone",
    "register_dataset",
    "register_model",
    "train",
    "update_bundle",
]


def __getattr__(name: str) -> Any:
    """Imports the public names when the first is used: torch takes seconds, `--help` does not."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = importlib.import_module(f"{__name__}.public")
    globals().update({key: vars(public)[key] for key in __all__ if key != "__version__"})
    if name not in globals():  # the import above also sets submodules, mammoth_compiled.models
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
