"""The continual-learning algorithms; importing the package registers every module in it."""

from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.common.task_replay import fill_buffer, icarl_replay
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)

__all__ = ["ContinualModel", "fill_buffer", "icarl_replay"]
