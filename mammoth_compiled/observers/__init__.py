"""Observers of a run: what is printed, drawn and written while it trains; one a file."""

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.observers.bundle import BundleExporter
from mammoth_compiled.observers.checkpoint import CheckpointWriter
from mammoth_compiled.observers.console import Console, FinalTable, RunSummary
from mammoth_compiled.observers.progress import ProgressBar, is_interactive
from mammoth_compiled.observers.results import ResultsWriter

__all__ = [
    "BundleExporter",
    "CheckpointWriter",
    "Console",
    "FinalTable",
    "ProgressBar",
    "ResultsWriter",
    "RunSummary",
    "default_observers",
]


def default_observers(config: RunConfig) -> list[Observer]:
    """Returns the observers of every run: console, checkpoints, and a progress bar on a terminal.

    Args:
        config: All arguments.
    """
    observers: list[Observer] = [Console()]
    if config.files.savecheck:
        observers.append(CheckpointWriter(config.files.savecheck))
    if is_interactive():
        observers.append(ProgressBar())
    return observers
