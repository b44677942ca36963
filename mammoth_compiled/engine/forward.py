"""Runs the calls of a backbone, compiled or eagerly, as a `Compute` decides."""

import contextlib
import types
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.compiler.ahead import compiling_ahead
from mammoth_compiled.compiler.compat import compile_function
from mammoth_compiled.compiler.host_randomness import host_randomness, host_randomness_refused
from mammoth_compiled.engine.host_state import changed_host_state
from mammoth_compiled.engine.recompilation import RecompilationWatch
from mammoth_compiled.types import ReturnTypes

AMP_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class CallPolicy(Protocol):
    """Decides how calls run; see `engine.compute.Compute`."""

    device: torch.device
    amp: str
    compile: bool

    def compiles(self, returnt: str, batch_size: int, training: bool) -> bool:
        """Returns whether a call runs compiled."""

    def disable(self, net: nn.Module, reason: str) -> None:
        """Stops compiling for the rest of the run and says why."""


class NetRunner:
    """Runs the calls of one backbone.

    Each `returnt` has its own compiled function, so that it is a constant of its graph, and so have
    calls without gradients.

    Args:
        net: The backbone.
        policy: Shared with the runners of the backbone's copies.

    Attributes:
        evaluated: Images for whose evaluation the backbone is compiled together with its first
            training call, [B, C, H, W]; None if it is compiled when it is evaluated.
    """

    evaluated: torch.Tensor | None = None

    def __init__(self, net: MammothBackbone, policy: CallPolicy) -> None:
        self.net = net
        self.policy = policy
        self._compiled: dict[tuple[str, bool], Callable[..., Any]] = {}
        self._recompilations = RecompilationWatch(type(net).__name__)
        # Host state that the first training call changed; None before it.
        self._suspects: set[str] | None = None

    @property
    def is_inspecting(self) -> bool:
        """Whether the next training call runs eagerly, to see whether it changes host state."""
        return bool(self._suspects)

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
        def eager() -> Any:
            return nn.Module.__call__(self.net, *args, **kwargs)

        returnt = self._plain_returnt(args, kwargs)
        if returnt is None:
            return eager()
        compiles = self.policy.compiles(returnt, len(args[0]), self.net.training)
        if self._is_to_inspect(compiles):
            return self._inspect(eager)
        if not compiles:
            return eager()
        if self.evaluated is not None and torch.is_grad_enabled():
            self._compile_ahead()
        function = self._function(returnt)
        try:
            # A call without gradients has a graph of its own.
            kind = (returnt, len(args[0]), self.net.training, torch.is_grad_enabled())
            with self._recompilations.watch(kind) as outcome, host_randomness_refused():
                result = _call_compiled(function, args[0], self.net)
        except Exception as error:
            # If eager mode fails too, the fault is the caller's, and that error is the one to show.
            result = eager()
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            self.policy.disable(
                self.net, host_randomness(error) or f"compiling it failed: {reason}"
            )
            return result
        if outcome.recompiles_often:
            self.policy.disable(
                self.net,
                f"it was recompiled {outcome.num_recompilations} times in few steps, last because "
                f"this guard failed: {outcome.guard}. Keep values that change in tensors (buffers)",
            )
        return result

    def _function(self, returnt: str) -> Callable[..., Any]:
        key = (returnt, torch.is_grad_enabled())
        if key not in self._compiled:
            self._compiled[key] = compile_function(
                forward_function(self.net, returnt), backend="mammoth", dynamic=False
            )
        return self._compiled[key]

    def _compile_ahead(self) -> None:
        """Compiles the evaluation of `evaluated`; errors occur again when it is evaluated."""
        images, self.evaluated = self.evaluated, None
        training = [module for module in self.net.modules() if module.training]
        self.net.eval()
        try:
            with torch.no_grad(), compiling_ahead(), contextlib.suppress(Exception):
                self._function(ReturnTypes.OUT)(images)
        finally:
            for module in training:
                module.training = True

    def _is_to_inspect(self, compiles: bool) -> bool:
        is_training = self.net.training and torch.is_grad_enabled() and self.policy.compile
        return is_training and (bool(self._suspects) or (self._suspects is None and not compiles))

    def _inspect(self, eager: Callable[[], Any]) -> Any:
        """Runs one of the first training calls and looks for what a compiled graph would freeze.

        What only the first call changes was initialized by it, so a second call decides.
        """
        result, names = changed_host_state(self.net, eager)
        if self._suspects is not None:
            changed = [name for name in names if name in self._suspects]
            self._suspects = set()
            if changed:
                self.policy.disable(
                    self.net,
                    f"its forward changes {', '.join(changed)}, which a compiled graph would "
                    "freeze. Keep such state in tensors (buffers), and draw random numbers with "
                    "torch",
                )
            return result
        self._suspects = set(names)
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.register_hook(self._refuse_double_backward)
        return result

    def _refuse_double_backward(self, grad: torch.Tensor) -> None:
        # Backward runs with gradients enabled if and only if create_graph=True.
        if torch.is_grad_enabled() and self.policy.compile:
            self.policy.disable(
                self.net,
                "its gradients are differentiated again (create_graph=True), and torch.compile "
                "does not support double backward",
            )

    def _plain_returnt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Returns the `returnt` of a call that can run compiled, else None."""
        returnt = kwargs.get("returnt", args[1] if len(args) == 2 else ReturnTypes.OUT)
        plain = len(args) + len(kwargs) <= 2 and not (kwargs.keys() - {"returnt"})
        if not (plain and args and isinstance(args[0], torch.Tensor) and args[0].dim() > 0):
            return None
        if torch.compiler.is_compiling() or returnt not in ReturnTypes.__members__.values():
            return None
        return str(returnt) if args[0].device == self.net.device else None


def _call_compiled(function: Callable[..., Any], x: torch.Tensor, net: nn.Module) -> Any:
    """Calls a compiled function; its updates of running statistics keep their version counters.

    Eager batch norm saves its running statistics for backward, does not read them there in training
    mode, and updates them without advancing their version counters. A compiled call does advance
    them, so that an eager call before it in the same step could not run its backward.
    """
    statistics = tuple(
        buffer
        for module in net.modules()
        if isinstance(module, _NormBase) and module.training
        for buffer in (module.running_mean, module.running_var)
        if buffer is not None
    )
    if not statistics:
        return function(x)
    with contextlib.ExitStack() as restores_versions:
        restores_versions.enter_context(torch.autograd._unsafe_preserve_version_counter(statistics))
        result = function(x)
        if _saved_for_backward(result) & {id(buffer) for buffer in statistics}:
            restores_versions.pop_all()  # its own backward expects the new versions
    return result


def _saved_for_backward(result: Any) -> set[int]:
    first = result[0] if isinstance(result, (tuple, list)) else result
    return {id(tensor) for tensor in getattr(first.grad_fn, "saved_tensors", ())}


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
