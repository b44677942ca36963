"""The training loop, evaluation, and how the calls of a backbone run."""

from mammoth_compiled.engine.evaluate import evaluate
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.train import run_tasks

__all__ = ["Observer", "Run", "evaluate", "run_tasks"]
