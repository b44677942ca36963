"""Runs the calls of a backbone, compiled or eagerly, as a `Compute` decides."""

import contextlib
import types
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.compiler.compat import compile_function
from mammoth_compiled.types import ReturnTypes

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class CallPolicy(Protocol):
    """Decides how calls run; see `engine.compute.Compute`."""

    device: torch.device
    amp: str

    def compiles(self, returnt: str, batch_size: int, training: bool) -> bool:
        """Returns whether a call runs compiled."""

    def disable(self) -> None:
        """Stops compiling for the rest of the run."""


class NetRunner:
    """Runs the calls of one backbone.

    Each `returnt` has its own compiled function, so that it is a constant of its graph.

    Args:
        net: The backbone.
        policy: Shared with the runners of the backbone's copies.
    """

    def __init__(self, net: MammothBackbone, policy: CallPolicy) -> None:
        self.net = net
        self.policy = policy
        self._compiled: dict[str, Callable[..., Any]] = {}

    def for_copy(self, net: MammothBackbone) -> "NetRunner":
        """Returns a runner for a copy of the backbone, under the same policy."""
        return NetRunner(net, self.policy)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs one call; `args` and `kwargs` are those of `forward`."""
        policy = self.policy
        if policy.amp == "off":
            return self._run(args, kwargs)
        with torch.autocast(policy.device.type, AMP_DTYPES[policy.amp]):
            result = self._run(args, kwargs)
        return _to_float(result)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        returnt = self._plain_returnt(args, kwargs)
        if returnt is None or not self.policy.compiles(returnt, len(args[0]), self.net.training):
            return nn.Module.__call__(self.net, *args, **kwargs)
        function = self._compiled.get(returnt)
        if function is None:
            function = self._compiled[returnt] = compile_function(
                forward_function(self.net, returnt), backend="mammoth", dynamic=False
            )
        try:
            with _silent_statistics(self.net):
                return function(args[0])
        except Exception as error:
            # If eager mode fails too, the fault is the caller's, and that error is the one to show.
            result = nn.Module.__call__(self.net, *args, **kwargs)
            self.policy.disable()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"{type(self.net).__name__} runs eagerly from here on, because compiling it "
                f"failed: {reason}",
                stacklevel=4,
            )
            return result

    def _plain_returnt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Returns the `returnt` of a call that can run compiled, else None."""
        returnt = kwargs.get("returnt", args[1] if len(args) == 2 else ReturnTypes.OUT)
        plain = len(args) + len(kwargs) <= 2 and not (kwargs.keys() - {"returnt"})
        if not (plain and args and isinstance(args[0], torch.Tensor) and args[0].dim() > 0):
            return None
        if torch.compiler.is_compiling() or returnt not in ReturnTypes.__members__.values():
            return None
        return str(returnt) if args[0].device == self.net.device else None


def _silent_statistics(net: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Keeps updates of running statistics from invalidating an earlier eager call's backward.

    Eager batch norm saves its running statistics for backward, does not read them there in training
    mode, and updates them without advancing their version counters. A compiled call does advance
    them, so that an eager call followed by a compiled one in the same step would fail.
    """
    statistics = tuple(
        buffer
        for module in net.modules()
        if isinstance(module, _NormBase) and module.training
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    )
    if not statistics:
        return contextlib.nullcontext()
    return torch.autograd._unsafe_preserve_version_counter(statistics)


def forward_function(net: MammothBackbone, returnt: str) -> Callable[[torch.Tensor], Any]:
    """Returns a function of images [B, C, H, W] that gives what `returnt` asks for, to compile."""

    def forward(x: torch.Tensor) -> Any:
        # A network without the argument `returnt` only ever gives logits.
        return (
            net._call_impl(x) if returnt == ReturnTypes.OUT else net._call_impl(x, returnt=returnt)
        )

    # Dynamo counts recompilations per code object: each function gets its own.
    code = forward.__code__.replace(co_name=f"{type(net).__name__}_{returnt}")
    return types.FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)


def _to_float(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.float()
    return type(result)(_to_float(part) for part in result)
