"""Joint training on all tasks: the upper bound."""

from typing import ClassVar

from mammoth_compiled.models.sgd import SGD
from mammoth_compiled.registry import register_model


@register_model("joint")
class Joint(SGD):
    """Trains on all tasks jointly; its accuracy is an upper bound."""

    JOINT: ClassVar[bool] = True
