"""What a run measured, as an object, as JSON, as rows of a table and as HTML."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mammoth_compiled.results.formats import plain_arguments
    from mammoth_compiled.results.results import Results

__all__ = ["Results", "plain_arguments"]


def __getattr__(name: str) -> Any:
    """Imports the public names when the first is used: the report reads files without torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.results"), name)
