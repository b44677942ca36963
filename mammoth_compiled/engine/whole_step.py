"""The whole training step as one compiled graph: forward, loss and backward.

Compiling the backbone alone leaves the loss, the autograd engine and the accumulation of gradients
to Python and ATen. Here Dynamo traces `training_loss` and `torch.autograd.grad` together, so that
Inductor sees the complete computation.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from mammoth_compiled.compiler.compat import COMBO_KERNELS, compile_function
from mammoth_compiled.compiler.host_randomness import host_randomness, host_randomness_refused
from mammoth_compiled.engine.compute import WHOLE, Compute
from mammoth_compiled.engine.recompilation import RecompilationWatch
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.core.optimizers import flat_parameters
from mammoth_compiled.types import Batch


class WholeStep:
    """Computes the loss of a batch and its gradients in one graph.

    The first step of each kind (shapes of stream and replay) runs as without it, and so do ragged
    steps and kinds that first occur after the first task, so that later tasks compile nothing.

    Args:
        compute: How the run computes.
    """

    def __init__(self, compute: Compute) -> None:
        self._compute = compute
        self._model: ContinualModel | None = None
        self._function: Callable[..., Any] | None = None
        self._recompilations = RecompilationWatch("")

    def __call__(self, model: ContinualModel, batch: Batch) -> torch.Tensor | None:
        """Sets `p.grad` of the parameters that `model.opt` trains; gradients are None before.

        Args:
            model: The model.
            batch: The batch; its `logits` and `losses` are set as by `training_loss`.

        Returns:
            The loss, 0-d, detached; None if the step is to be computed without this object.
        """
        compute = self._compute
        runner = vars(model.net).get("_runner")
        if not compute.compile or getattr(runner, "is_inspecting", False):
            return None
        model.draw(batch)
        tensors = [batch.inputs, batch.labels]
        tensors += [tensor for pair in (batch.replay or {}).values() for tensor in pair]
        kind = WHOLE + " ".join("x".join(map(str, tensor.shape)) for tensor in tensors)
        first_task = vars(model.args).get("start_from", 0)
        if not compute.compiles_step(kind, may_be_new=model.current_task <= first_task):
            return None
        parameters = [p for p in flat_parameters(model.opt.param_groups) if p.requires_grad]
        if reason := _obstacle(model, parameters):
            compute.disable_whole_step(model, reason)
            return None
        try:
            with (
                self._recompilations.watch((kind, model.net.training)) as outcome,
                host_randomness_refused(),
            ):
                loss, batch.logits, batch.losses, gradients = self._compiled(model)(
                    parameters,
                    batch.inputs,
                    batch.labels,
                    batch.not_aug_inputs,
                    batch.true_labels,
                    batch.replay,
                )
        except Exception as error:  # user code may raise anything; without this object it shows
            reason = host_randomness(error) or f"tracing it failed: {_cause(error)}"
            compute.disable_whole_step(model, reason)
            return None
        set_gradients(parameters, gradients, tensors)
        if outcome.recompiles_often:
            compute.disable_whole_step(
                model,
                f"it was recompiled {outcome.num_recompilations} times in few steps, last because "
                f"this guard failed: {outcome.guard}",
            )
        return loss

    def _compiled(self, model: ContinualModel) -> Callable[..., Any]:
        if self._function is None or self._model is not model:
            torch._dynamo.config.trace_autograd_ops = True
            self._model = model
            self._recompilations = RecompilationWatch(f"the step of {type(model).__name__}")
            self._function = compile_function(
                _step_function(model),
                backend="mammoth",
                dynamic=False,
                fullgraph=True,
                options=COMBO_KERNELS if self._compute.device.type == "cuda" else None,
            )
        return self._function


def _step_function(model: ContinualModel) -> Callable[..., Any]:
    """Returns a function of a batch that gives loss, logits, losses and gradients, to compile."""

    def step(
        parameters: list[torch.Tensor],
        inputs: torch.Tensor,
        labels: torch.Tensor,
        not_aug_inputs: torch.Tensor,
        true_labels: torch.Tensor | None,
        replay: Any,
    ) -> tuple[Any, ...]:
        batch = Batch(inputs, labels, not_aug_inputs, true_labels=true_labels, replay=replay)
        loss = model.training_loss(batch)
        gradients = tuple(
            # In the order of the parameter, so that `set_gradients` copies nothing.
            g if g is None or g.stride() == p.stride() else torch.empty_like(p).copy_(g)
            for p, g in zip(
                parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True
            )
        )
        logits = None if batch.logits is None else batch.logits.detach()
        return loss.detach(), logits, batch.losses, gradients

    return step


def _cause(error: Exception) -> str:
    """Returns what went wrong, in one line; Dynamo says it behind a general explanation."""
    text = str(error).strip() or type(error).__name__
    _, _, context = text.partition("Developer debug context:")
    return (context.strip() or text).splitlines()[0]


def _obstacle(model: ContinualModel, parameters: Sequence[torch.Tensor]) -> str:
    """Returns what a graph of forward and backward would leave out, "" if nothing."""
    if model.scaler.is_enabled():
        return "--amp fp16 scales the loss"
    for parameter in parameters:
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            return "its parameters have gradient hooks"
    return ""


def set_gradients(
    parameters: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor | None],
    inputs: Sequence[torch.Tensor],
) -> None:
    """Sets `p.grad` as backward would: with the strides of the parameter and its own memory."""
    taken = {tensor.data_ptr() for tensor in inputs}
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            if gradient.stride() != parameter.stride() or gradient.data_ptr() in taken:
                gradient = torch.empty_like(parameter).copy_(gradient)
            taken.add(gradient.data_ptr())
        parameter.grad = gradient
