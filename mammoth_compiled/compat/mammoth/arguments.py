"""Mammoth's `utils.args`."""

from argparse import ArgumentParser, Namespace

from mammoth_compiled.compat.mammoth.utils import binary_to_boolean_type
from mammoth_compiled.config import add_rehearsal_args

__all__ = ["ArgumentParser", "Namespace", "add_rehearsal_args", "binary_to_boolean_type"]
