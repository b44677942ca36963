"""The continual-learning algorithms; importing the package registers the built-in ones."""

from mammoth_compiled.models import der, er, joint, sgd
from mammoth_compiled.models.base import ContinualModel

__all__ = ["ContinualModel", "der", "er", "joint", "sgd"]
