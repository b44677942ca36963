"""Where a dataset looks for its files."""

from argparse import Namespace
from pathlib import Path

from mammoth_compiled.device import base_path


def data_dir(args: Namespace) -> Path:
    """Returns the folder for data: `--data_dir`, else `base_path()`."""
    return Path(getattr(args, "data_dir", None) or base_path())
