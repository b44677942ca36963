"""Mammoth's `datasets` and `datasets.utils`."""

from argparse import Namespace
from collections.abc import Callable
from typing import Any, ClassVar

from torch.utils.data import Dataset

from mammoth_compiled.datasets.base import ContinualDataset as BaseDataset
from mammoth_compiled.datasets.base import MammothDataset
from mammoth_compiled.registry import datasets, register_dataset

__all__ = [
    "ContinualDataset",
    "Dataset",
    "MammothDataset",
    "get_dataset",
    "get_dataset_names",
    "register_dataset",
    "set_default_from_args",
    "store_masked_loaders",
]


def get_dataset(args: Namespace) -> BaseDataset:
    """Builds the dataset of a run again, before its first task."""
    entry = datasets[args.dataset]
    options = {parameter.name: vars(args)[parameter.name] for parameter in entry.parameters}
    dataset: BaseDataset = entry.target(args, **options)
    return dataset


def get_dataset_names(names_only: bool = True) -> Any:
    """Returns the registered datasets; see `mammoth_compiled.get_dataset_names`."""
    return datasets.listing(names_only)


def set_default_from_args(arg_name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator: what the method returns is the dataset's default of an argument."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function.default_of = arg_name  # type: ignore[attr-defined]
        return function

    return decorate


def store_masked_loaders(
    train_dataset: Dataset, test_dataset: Dataset, setting: BaseDataset
) -> tuple[Dataset, Dataset]:
    """Returns the two datasets; `setting.meta_get_data_loaders` splits them into tasks."""
    return train_dataset, test_dataset


class ContinualDataset(BaseDataset):
    """Mammoth's base class of datasets; a subclass with a `NAME` registers itself under it.

    `get_data_loaders` returns the training and test set, as `store_masked_loaders` does here.
    Values of methods that `set_default_from_args` decorates become `DEFAULTS`.
    """

    DEFAULTS: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        defaults = dict(cls.DEFAULTS)
        for member in vars(cls).values():
            function = getattr(member, "__func__", member)
            name = getattr(function, "default_of", None)
            if name is not None:
                takes_self = function.__code__.co_argcount > 0
                defaults[name] = function(cls) if takes_self else function()
        cls.DEFAULTS = {name: value for name, value in defaults.items() if name != "backbone"}
        if isinstance(vars(cls).get("NAME"), str):
            datasets.register(cls.NAME)(cls)

    def get_epochs(self) -> int:
        """Returns the number of epochs per task."""
        return self.config.experiment.n_epochs

    def get_batch_size(self) -> int:
        """Returns the batch size."""
        return self.config.experiment.batch_size

    def get_minibatch_size(self) -> int:
        """Returns the number of replayed samples per step."""
        return int(getattr(self.args, "minibatch_size", None) or self.get_batch_size())

    def get_class_names(self) -> list[str]:
        """Returns one name per class."""
        return list(self.info().class_names)
