"""Default arguments that a dataset declares by methods, and the methods that return them."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torchvision import transforms

from mammoth_compiled.config import RunConfig


class DefaultOf:
    """A method whose result is the dataset's default of an argument; see `set_default_from_args`.

    It may be called on the class and on its objects, with or without a parameter `self`.

    Args:
        argument: Name of the argument.
        function: The function or static method.
    """

    def __init__(self, argument: str, function: Callable[..., Any]) -> None:
        self.argument = argument
        self.function = getattr(function, "__func__", function)
        functools.update_wrapper(self, self.function)  # type: ignore[arg-type]
        self._takes_self = len(inspect.signature(self.function).parameters) > 0

    def __get__(self, instance: Any, owner: type) -> Callable[[], Any]:
        if not self._takes_self:
            return self.function
        return functools.partial(self.function, owner if instance is None else instance)


def set_default_from_args(arg_name: str) -> Callable[[Callable[..., Any]], DefaultOf]:
    """Returns a decorator: what the method returns is the dataset's default of an argument.

    Args:
        arg_name: Name of the argument, such as "n_epochs".

    Example:
        >>> class Dataset(DatasetDefaults):
        ...     @set_default_from_args("n_epochs")
        ...     def get_epochs(self):
        ...         return 50
        >>> Dataset.DEFAULTS
        {'n_epochs': 50}
    """
    return lambda function: DefaultOf(arg_name, function)


class DatasetDefaults:
    """The part of `ContinualDataset` that gives default arguments, and what follows from them.

    Values of methods that `set_default_from_args` decorates are added to `DEFAULTS`, except that of
    the backbone, which `get_backbone` returns. A method that needs an object adds nothing.
    """

    DEFAULTS: ClassVar[dict[str, Any]] = {}
    CLASS_NAMES: tuple[str, ...]
    MEAN: tuple[float, ...]
    STD: tuple[float, ...]
    config: RunConfig
    args: Any
    info: Callable[[], Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        declared = {}
        for name, member in vars(cls).items():
            if isinstance(member, DefaultOf) and member.argument != "backbone":
                try:
                    declared[member.argument] = getattr(cls, name)()
                except Exception:  # user code that needs an object may raise anything
                    continue
        if declared:
            cls.DEFAULTS = {**cls.DEFAULTS, **declared}

    def get_epochs(self) -> int:
        """Returns the number of epochs per task."""
        return self.config.experiment.n_epochs

    def get_iters(self) -> int | None:
        """Returns the number of steps per task that `--n_iters` sets, None without it."""
        return self.config.training.n_iters

    def get_batch_size(self) -> int:
        """Returns the batch size."""
        return self.config.experiment.batch_size

    def get_minibatch_size(self) -> int:
        """Returns the number of replayed samples per step; by default the batch size."""
        return int(getattr(self.args, "minibatch_size", None) or self.get_batch_size())

    def get_class_names(self) -> list[str]:
        """Returns one name per class, in the order in which they are learned."""
        return list(self.info().class_names)

    @classmethod
    def get_normalization_transform(cls) -> Any:
        """Returns the transform that normalizes a float image in [0, 1]."""
        return transforms.Normalize(cls.MEAN, cls.STD)

    @classmethod
    def get_denormalization_transform(cls) -> Any:
        """Returns the inverse of `get_normalization_transform` by `MEAN` and `STD`."""
        mean = [-m / s for m, s in zip(cls.MEAN, cls.STD, strict=True)]
        return transforms.Normalize(mean, [1 / s for s in cls.STD])
