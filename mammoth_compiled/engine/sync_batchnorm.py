"""Batch norm over the batch of all ranks, on any device."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mammoth_compiled.distributed import num_ranks


class _SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over the ranks; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        result = tensor.clone()
        distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        result = gradients[0].contiguous().clone()
        distributed.all_reduce(result)
        return result


class _SyncBatchNorm(_BatchNorm):
    """Computes mean and variance over the images of all ranks while it trains."""

    def _check_input_dim(self, input: torch.Tensor) -> None:
        pass

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or num_ranks() == 1:
            return super().forward(input)
        dims = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        count = values.numel() / values.shape[1] * num_ranks()
        sums = _SumOverRanks.apply(torch.stack([values.sum(dims), values.square().sum(dims)]))
        mean = sums[0] / count
        variance = (sums[1] / count - mean.square()).clamp(min=0)
        if self.running_mean is not None and self.running_var is not None:
            self._update(mean.detach(), variance.detach() * count / max(count - 1, 1))
        scale = (variance + self.eps).rsqrt()
        result = (values - mean.view(shape)) * scale.view(shape)
        if self.weight is not None:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        """Updates the running statistics as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None
        assert self.running_var is not None
        momentum = self.momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum or 0.0)
        self.running_var.lerp_(variance, momentum or 0.0)


@contextlib.contextmanager
def synchronized_batch_norm(net: nn.Module) -> Iterator[None]:
    """Makes the batch norms of a network compute over all ranks; undone at exit.

    Args:
        net: The network, which must run eagerly meanwhile.
    """
    changed = [m for m in net.modules() if type(m) in (nn.BatchNorm1d, nn.BatchNorm2d)]
    before = [type(module) for module in changed]
    for module in changed:
        module.__class__ = _SyncBatchNorm
    try:
        yield
    finally:
        for module, cls in zip(changed, before, strict=True):
            module.__class__ = cls
