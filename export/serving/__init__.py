"""Model repositories for serving systems, one module per system."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mammoth_compiled.export.serving.triton import write_triton_layout

Writer = Callable[[str | os.PathLike[str], str | os.PathLike[str]], list[Path]]

# Name of a layout to the function that writes a bundle into a model repository of that layout.
LAYOUTS: Mapping[str, Writer] = {"triton": write_triton_layout}
