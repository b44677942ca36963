"""Training and evaluation loops, and how a backbone's calls are run."""

from mammoth_compiled.engine.evaluate import evaluate
from mammoth_compiled.engine.train import train

__all__ = ["evaluate", "train"]
