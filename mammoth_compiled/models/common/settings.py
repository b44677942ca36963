"""Settings that methods run in, and protocols and sources of best known values (`DEFAULTS`).

Each setting says in `source` where it comes from; `--show_config` prints it beside the value. The
settings of the protocol of Buzzega et al. are those of Mammoth's `utils/best_args.py`, which holds
the values of the paper's appendix.
"""

from collections.abc import Mapping
from typing import Any

DER = "Buzzega et al. 2020, arXiv 2004.07211, appendix F"
XDER = "Boschini et al. 2022, arXiv 2201.00766"
MAMMOTH = "Mammoth, utils/best_args.py"
# No paper has figures for this dataset, or its settings are not known here.
OWN = "this package, not from a paper"

# For `COMPATIBILITY` of methods that need no tasks, nor classes that are seen once only.
EVERY_SETTING = ["class-il", "task-il", "domain-il", "general-continual"]

# Epochs, batch size and schedule of the protocol on each dataset, and the paper they are from.
CIFAR100: dict[str, Any] = {"n_epochs": 50, "batch_size": 32}
CIFAR100 |= {"lr_scheduler": "multistep", "lr_milestones": [35, 45]}
PROTOCOL: dict[str, dict[str, Any]] = {
    "seq-cifar10": {"n_epochs": 50, "batch_size": 32, "source": DER},
    "seq-cifar100": {**CIFAR100, "source": XDER},
    "seq-tinyimg": {"n_epochs": 100, "batch_size": 32, "source": DER},
    "seq-mnist": {"n_epochs": 1, "batch_size": 10, "source": DER},
    "perm-mnist": {"n_epochs": 1, "batch_size": 128, "source": DER},
    "rot-mnist": {"n_epochs": 1, "batch_size": 128, "source": DER},
    "mnist-360": {"source": DER},
}
# Those of `PROTOCOL`; the first one applies if no size is given.
BUFFER_SIZES = {**dict.fromkeys(PROTOCOL, (500, 200, 5120)), "mnist-360": (500, 200, 1000)}


def published(
    table: Mapping[str, Mapping[str, Any]], buffer_size: int | None = 500
) -> dict[str, Any]:
    """Returns settings by dataset, completed by the dataset's `PROTOCOL`.

    Args:
        table: By dataset: the method's own arguments, which replace those of the protocol. A tuple
            has one value for each of the dataset's `BUFFER_SIZES`, or for the first of them.
        buffer_size: Size of the buffer where nothing depends on it; None for a method without one.

    Example:
        >>> rows = published({"seq-mnist": {"lr": 0.1, "alpha": (1.0, 0.2), "source": "a paper"}})
        >>> rows["seq-mnist"][1]  # doctest: +NORMALIZE_WHITESPACE
        {'n_epochs': 1, 'batch_size': 10, 'source': 'a paper', 'lr': 0.1, 'alpha': 0.2,
         'buffer_size': 200}
    """
    settings: dict[str, Any] = {}
    for dataset, own in table.items():
        setting = {**PROTOCOL[dataset], **own}
        columns = {name: values for name, values in own.items() if isinstance(values, tuple)}
        if columns:
            sizes = BUFFER_SIZES[dataset][: max(map(len, columns.values()))]
            rows = zip(sizes, *columns.values(), strict=True)
            names = ("buffer_size", *columns)
            settings[dataset] = [{**setting, **dict(zip(names, r, strict=True))} for r in rows]
        elif buffer_size is None:
            settings[dataset] = setting
        else:
            settings[dataset] = {"buffer_size": buffer_size, **setting}
    return settings


def fmnist(buffer_size: int | None = 500, source: str = OWN, **setting: Any) -> dict[str, Any]:
    """Returns the same setting for Fashion-MNIST and its packaged subset, by dataset.

    Args:
        buffer_size: Size of the buffer; None for a method without one.
        source: Where it comes from.
        setting: The other arguments.
    """
    size = {} if buffer_size is None else {"buffer_size": buffer_size}
    setting = {**size, **setting, "source": source}
    return {"seq-fmnist": setting, "seq-fmnist-mini": setting}
