"""Cases of an operation: what the check compiles, the autotuner times and the benchmarks report."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class LaunchCase:
    """Launches of an operation's Triton kernels for one shape and dtype.

    Attributes:
        name: Shape and dtype, for messages.
        launch: Calls the launchers with tensors on the meta device.
    """

    name: str
    launch: Callable[[], object]


@dataclass(frozen=True)
class Work:
    """The least that an operation moves and computes; with a chip's roofline, a lower time bound.

    Attributes:
        num_bytes: Bytes read from and written to memory.
        num_flops: Additions and multiplications.
    """

    num_bytes: int
    num_flops: int

    def __add__(self, other: "Work") -> "Work":
        return Work(self.num_bytes + other.num_bytes, self.num_flops + other.num_flops)


class TuningCase(ABC):
    """One shape, dtype, layout and mode of an operation, for which implementations are timed.

    `str(case)` is its key in the tables of `runtime.tiles`.

    Attributes:
        op: Name of the operation in the tables.
        dtype: Dtype of the tensors.
    """

    op: ClassVar[str]
    dtype: torch.dtype

    @abstractmethod
    def make_inputs(self, device: torch.device) -> tuple[torch.Tensor | None, ...]:
        """Returns random inputs in the layouts of a run, which require gradients in training."""

    @abstractmethod
    def contenders(self, inputs: Sequence[Any]) -> dict[str, Callable[..., Any]]:
        """Returns the implementations that can take the inputs, as functions of them, by name."""

    @abstractmethod
    def work(self) -> Work:
        """Returns the work of forward and, in training, backward."""

    def make_steps(self, device: torch.device) -> dict[str, Callable[[], Any]]:
        """Returns a function per implementation that runs forward and, in training, backward."""
        inputs = self.make_inputs(device)
        return {
            name: training_step(function, inputs)
            for name, function in self.contenders(inputs).items()
        }


def training_step(
    function: Callable[..., Any], inputs: Sequence[torch.Tensor | None]
) -> Callable[[], Any]:
    """Returns a function that runs forward, then backward for the inputs that require gradients.

    The gradient that goes in is random, in the layout of the result; the first call draws it.

    Args:
        function: Forward, a function of the inputs.
        inputs: Its arguments.
    """
    differentiable = [t for t in inputs if t is not None and t.requires_grad]
    if not differentiable:
        return lambda: function(*inputs)
    grads: list[torch.Tensor] = []

    def step() -> Any:
        result = function(*inputs)
        results = [result] if isinstance(result, torch.Tensor) else list(result)
        if not grads:
            grads.extend(torch.randn_like(r) for r in results)
        return torch.autograd.grad(results, differentiable, grads)

    return step
