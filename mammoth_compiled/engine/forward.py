"""How a backbone's calls are run: compiled for the run's batch sizes, eagerly for others."""

import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.compiler.compat import compile_function
from mammoth_compiled.types import ReturnTypes

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass
class ForwardPolicy:
    """What the runners of a run's backbone and of its copies share.

    Attributes:
        device: Where the run computes.
        compile: Whether to compile.
        batch_sizes: The batch sizes to compile for. A graph is made for each, so a ragged last
            batch is not among them and runs eagerly.
        seen: The kinds of training call met so far. A kind is compiled when it comes again, since
            some come once: the first step of a replay method, whose buffer is empty. It is part
            of a checkpoint, so that a resumed run computes as one never stopped.
        amp: "off", "bf16" or "fp16": precision inside the backbone; results are float32.
    """

    device: torch.device
    compile: bool = False
    batch_sizes: set[int] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)
    amp: str = "off"


class NetRunner:
    """Runs the calls of one backbone as a policy says.

    There is one compiled function per `returnt`, so that value is a constant of its graph.

    Args:
        net: The backbone.
        policy: Shared with the runners of the backbone's copies.
    """

    def __init__(self, net: MammothBackbone, policy: ForwardPolicy) -> None:
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
        returnt = self._compilable(args, kwargs) if self.policy.compile else None
        if returnt is None or not self._comes_again(returnt, len(args[0])):
            return nn.Module.__call__(self.net, *args, **kwargs)
        function = self._compiled.get(returnt)
        if function is None:
            function = self._compiled[returnt] = compile_function(
                forward_function(self.net, returnt), backend="mammoth", dynamic=False
            )
        try:
            return function(args[0])
        except Exception as error:
            # If eager fails too, the fault is the caller's, and that error is the one to show.
            result = nn.Module.__call__(self.net, *args, **kwargs)
            self.policy.compile = False
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"{type(self.net).__name__} runs eagerly from here on, because compiling it "
                f"failed: {reason}",
                stacklevel=4,
            )
            return result

    def _comes_again(self, returnt: str, batch: int) -> bool:
        if not torch.is_grad_enabled():
            return True
        kind = f"{returnt} {batch} {'train' if self.net.training else 'eval'}"
        known = kind in self.policy.seen
        self.policy.seen.add(kind)
        return known

    def _compilable(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Returns the `returnt` of a call that can run compiled, else None."""
        returnt = kwargs.get("returnt", args[1] if len(args) == 2 else ReturnTypes.OUT)
        plain = len(args) + len(kwargs) <= 2 and not (kwargs.keys() - {"returnt"})
        if not (plain and args and isinstance(args[0], torch.Tensor) and args[0].dim() > 0):
            return None
        if torch.compiler.is_compiling() or returnt not in ReturnTypes.__members__.values():
            return None
        known = len(args[0]) in self.policy.batch_sizes and args[0].device == self.net.device
        return str(returnt) if known else None


def forward_function(net: MammothBackbone, returnt: str) -> Callable[[torch.Tensor], Any]:
    """Returns a function of images [B, C, H, W] that gives what `returnt` asks for, to compile."""

    def forward(x: torch.Tensor) -> Any:
        # A network without the argument `returnt` only ever gives logits.
        return (
            net._call_impl(x) if returnt == ReturnTypes.OUT else net._call_impl(x, returnt=returnt)
        )

    # Dynamo counts recompilations per code object: each function gets one of its own.
    code = forward.__code__.replace(co_name=f"{type(net).__name__}_{returnt}")
    return types.FunctionType(code, forward.__globals__, code.co_name, None, forward.__closure__)


def _to_float(result: Any) -> Any:
    if isinstance(result, torch.Tensor):
        return result.float()
    return type(result)(_to_float(part) for part in result)


def attach(net: MammothBackbone, policy: ForwardPolicy) -> None:
    """Makes a backbone, and copies made of it from now on, run as the policy says."""
    net.set_runner(NetRunner(net, policy))


def policy_of(net: MammothBackbone) -> ForwardPolicy | None:
    """Returns how a backbone is run; None for one that the framework did not build."""
    runner = net.__dict__.get("_runner")
    return runner.policy if isinstance(runner, NetRunner) else None
