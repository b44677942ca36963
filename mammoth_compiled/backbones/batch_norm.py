"""Control over the running statistics of batch norm layers."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def bn_track_stats(module: nn.Module, condition: bool = True) -> Iterator[None]:
    """Leaves the running statistics of batch norm layers as they are, unless `condition`.

    In training mode the layers normalize with the statistics of the batch as usual.

    Args:
        module: Its batch norm layers are affected.
        condition: True does nothing.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> norm = nn.BatchNorm1d(2)
        >>> with bn_track_stats(norm, False):
        ...     _ = norm(torch.ones(3, 2))
        >>> norm.running_mean
        tensor([0., 0.])
    """
    layers = [] if condition else [m for m in module.modules() if isinstance(m, _BatchNorm)]
    before = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.track_running_stats = value
