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

# Epochs, batch size and schedule of the protocol on each dataset.
CIFAR10: dict[str, Any] = {"n_epochs": 50, "batch_size": 32}
CIFAR100: dict[str, Any] = {**CIFAR10, "lr_scheduler": "multistep", "lr_milestones": [35, 45]}
TINY: dict[str, Any] = {"n_epochs": 100, "batch_size": 32}
MNIST: dict[str, Any] = {"n_epochs": 1, "batch_size": 10}
# Permuted and rotated MNIST.
DOMAINS: dict[str, Any] = {"n_epochs": 1, "batch_size": 128}


def by_buffer(rows: Mapping[int, Mapping[str, Any]], **shared: Any) -> list[dict[str, Any]]:
    """Returns one setting per buffer size; a run takes that of the nearest size.

    Args:
        rows: By buffer size: what differs. The first one applies if no size is given.
        shared: What all have in common.

    Example:
        >>> by_buffer({500: {"alpha": 1.0}, 200: {"alpha": 0.5}}, lr=0.1)[1]
        {'lr': 0.1, 'buffer_size': 200, 'alpha': 0.5}
    """
    return [{**shared, "buffer_size": size, **row} for size, row in rows.items()]


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
