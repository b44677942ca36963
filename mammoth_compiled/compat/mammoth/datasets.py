"""Mammoth's `datasets` and `datasets.utils`."""

from argparse import Namespace
from typing import Any

from torch.utils.data import Dataset

from mammoth_compiled.datasets.base import ContinualDataset as BaseDataset
from mammoth_compiled.datasets.base import MammothDataset
from mammoth_compiled.datasets.defaults import set_default_from_args
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


def store_masked_loaders(
    train_dataset: Dataset, test_dataset: Dataset, setting: BaseDataset
) -> tuple[Dataset, Dataset]:
    """Returns the two datasets; `setting.meta_get_data_loaders` splits them into tasks."""
    return train_dataset, test_dataset


class ContinualDataset(BaseDataset):
    """Mammoth's base class of datasets; a subclass with a `NAME` registers itself under it.

    `get_data_loaders` returns the training and test set, as `store_masked_loaders` does here.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if isinstance(vars(cls).get("NAME"), str):
            datasets.register(cls.NAME)(cls)
