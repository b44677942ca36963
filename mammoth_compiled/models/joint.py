"""Training on all tasks at once: the upper bound."""

from typing import ClassVar

from mammoth_compiled.models.sgd import SGD
from mammoth_compiled.registry import register_model


@register_model("joint")
class Joint(SGD):
    """Trains on the data of all tasks together."""

    JOINT: ClassVar[bool] = True
