"""The training step as one CUDA graph.

Gathering, augmentation, replay, forward, loss, backward, optimizer, buffer and random numbers are
launched at once, without Python in between.
"""

import enum
import warnings
from typing import Any

import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.data import LazyBatch
from mammoth_compiled.engine.attribute_tensors import AttributeTensors
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.graph_capture import CudaGraphCapture, GraphCapture
from mammoth_compiled.engine.host_state import attribute_state, generator_state
from mammoth_compiled.engine.static_step import (
    CapturedGraph,
    EpochOrder,
    LossRing,
    RaggedBatches,
    StaticBatch,
)
from mammoth_compiled.engine.step import EagerStep, StepResult
from mammoth_compiled.engine.tensor_lr import TensorLearningRates, groups_with_lr
from mammoth_compiled.kernels.runtime.deferred import defer_counters
from mammoth_compiled.kernels.step_end import end_step
from mammoth_compiled.models.base import ContinualModel

# Steps in Python before the capture: they trigger compilation, autotuning and the creation of
# optimizer state.
WARMUP_STEPS = 3


class StepState(enum.Enum):
    """What a `CapturedStep` does with a full batch."""

    WARM_UP = "warm-up"  # runs in Python and watches what changes
    CAPTURED = "captured"  # replays the graph
    DISABLED = "disabled"  # runs in Python for good


def training_step(
    model: ContinualModel,
    compute: Compute,
    cuda_graph: str = "auto",
    capture: GraphCapture | None = None,
) -> EagerStep:
    """Returns what runs the training steps of a task.

    Steps are captured on a GPU, if the backbone is compiled and the model keeps
    `ContinualModel.observe`, so that `training_loss` and `after_step` contain the whole step.

    Args:
        model: The model.
        compute: How the run computes.
        cuda_graph: "auto" or "off".
        capture: What captures; None takes CUDA graphs.
    """
    reason = ""
    if type(model).observe is not ContinualModel.observe:
        reason = f"{type(model).__name__} defines its own observe"
    elif capture is None:
        if cuda_graph == "off":
            reason = "--cuda_graph off"
        elif model.device.type != "cuda":
            reason = f"device {model.device} has no CUDA graphs"
        elif not compute.compile:
            reason = "the backbone is not compiled"
    if reason:
        return EagerStep(model, compute, reason)
    return CapturedStep(model, compute, capture or CudaGraphCapture(model.device))


class CapturedStep(EagerStep):
    """Captures the training step once it is static, and replays it for every full batch.

    The step is static after WARMUP_STEPS steps in which the buffer's reads did not depend on how
    many of its rows are filled. Steps before that run in Python and compute the same. So do ragged
    batches, uncompiled, until WARMUP_STEPS epochs have ended with one; then they have a graph too.

    Args:
        model: The model.
        compute: How the run computes.
        capture: What captures.

    Attributes:
        state: See `StepState`.
    """

    def __init__(self, model: ContinualModel, compute: Compute, capture: GraphCapture) -> None:
        super().__init__(model, compute)
        self.state = StepState.WARM_UP
        self._capture = capture
        self._rates = TensorLearningRates(model.device)
        self._attributes = AttributeTensors(model)
        self._buffers: list[Buffer] = []
        self._graph: CapturedGraph | None = None
        self._ragged = RaggedBatches()
        self._warm_up_key: tuple[Any, ...] | None = None
        self._warm_up_steps = 0
        self._batch: StaticBatch | None = None
        self._order: EpochOrder | None = None
        self._losses: LossRing | None = None

    def __exit__(self, *_: object) -> None:
        self._graph, self._ragged, self._batch = None, RaggedBatches(), None
        self._rates.restore(self.model.opt)

    def begin_epoch(self) -> None:
        """Drops the graph if a tensor that it uses was replaced or moved."""
        super().begin_epoch()
        if self.state is StepState.DISABLED:
            return
        self._buffers = [v for v in vars(self.model).values() if isinstance(v, Buffer)]
        self._rates.move(self.model.opt)
        if self._graph is not None and self._graph.storages != self._captured_storages():
            self._start_warm_up(None)

    def _captured_storages(self) -> list[Any]:
        """Returns the tensors that the graph reads or writes, apart from its inputs.

        Each is given by its address, modules and buffers by identity, flags by value.
        """
        model = self.model
        tensors = [*model.parameters(), *model.buffers()]
        tensors += [group["lr"] for group in groups_with_lr(model.opt)]
        for buffer in self._buffers:
            tensors += buffer.tensors()
        trainable = [parameter.requires_grad for parameter in model.parameters()]
        addresses = [tensor.data_ptr() for tensor in tensors]
        objects = [model.net, model.net.training, model.opt, *self._buffers]
        return [*objects, *trainable, *addresses, *self._attributes.addresses()]

    def _step(self, lazy: LazyBatch, epoch: int) -> StepResult:
        if self.state is StepState.DISABLED or not self._is_on_device(lazy):
            return self._run(lazy, epoch)
        key = (lazy.materialize, [(tensor.shape, tensor.dtype) for tensor in lazy.tensors])
        if self._graph is not None:
            if self._graph.key == key:
                return self._replay(self._graph, lazy)
            if len(lazy.tensors[0]) < self._graph.batch.size:
                return self._ragged_step(key, lazy, epoch)
        if self._warm_up_key != key:
            self._start_warm_up(key)
        if self._warm_up_steps < WARMUP_STEPS:
            return self._warm_up(lazy, epoch)
        return self._capture_step(key, lazy, epoch)

    def _ragged_step(self, key: tuple[Any, ...], lazy: LazyBatch, epoch: int) -> StepResult:
        """Runs the smaller last batch of an epoch; after some epochs it has a graph of its own."""
        ragged, batch = self._ragged, self._ragged.batch
        if ragged.key != key or batch is None:
            batch = StaticBatch(lazy, self._order)
            ragged = self._ragged = RaggedBatches(key, batch=batch)
        if ragged.graph is not None:
            return self._replay(ragged.graph, lazy)
        if ragged.steps == WARMUP_STEPS:
            self._attributes.put_back()
            try:
                ragged.graph = self._captured(key, batch, epoch)
            except Exception:  # user code may raise anything; in Python it works
                self._attributes.abandon()
                ragged.steps = -1
            else:
                return self._replay(ragged.graph, lazy)
        result = self._run_static(batch, lazy, epoch)
        self._attributes.restore(same_shapes=False)
        # A graph has no place for attributes of another shape than those of a full batch.
        if ragged.steps >= 0:
            ragged.steps = ragged.steps + 1 if self._attributes.fit else -1
        return result

    def _is_on_device(self, lazy: LazyBatch) -> bool:
        # A user's own loader may yield anything, anywhere.
        devices = {t.device.type if isinstance(t, torch.Tensor) else None for t in lazy.tensors}
        return devices == {self.model.device.type}

    def _run(self, lazy: LazyBatch, epoch: int) -> StepResult:
        with self._capture.stream():
            return super()._run(lazy, epoch)

    def _run_static(self, batch: StaticBatch, lazy: LazyBatch, epoch: int) -> StepResult:
        """Runs a step in Python as a graph will run it, which compiles the kernels for it."""
        assert self._losses is not None
        batch.fill(lazy)
        loss = self._losses.take()
        with self._capture.stream():
            num_images = self._compute(batch, epoch)
        batch.end_step()
        return StepResult(loss, num_images)

    def _compute(self, batch: StaticBatch, epoch: int) -> int:
        """Computes a step that finds its batch on the device and leaves its loss there."""
        assert self._losses is not None
        with defer_counters() as deferred:
            # Not self._run: a capture is on its stream already.
            loss, num_images = EagerStep._run(self, batch.lazy, epoch)
            assert isinstance(loss, torch.Tensor)
            batch.advance(deferred)
            end_step(*deferred.take(), loss, self._losses.values, self._losses.slot)
        return num_images

    def _start_warm_up(self, key: tuple[Any, ...] | None) -> None:
        self.state = StepState.WARM_UP
        self._graph, self._ragged, self._batch = None, RaggedBatches(), None
        self._warm_up_key, self._warm_up_steps = key, 0

    def _warm_up(self, lazy: LazyBatch, epoch: int) -> StepResult:
        """Runs a step in Python and disables capture if it changes Python state."""
        before = attribute_state(self.model) | generator_state()
        self.model.counters.were_read = False
        result = (
            self._run(lazy, epoch)
            if self._batch is None
            else self._run_static(self._batch, lazy, epoch)
        )
        after = attribute_state(self.model) | generator_state()
        changed = sorted(name for name in after if after[name] != before.get(name))
        if self.compute.disabled_because:
            # Said already, and a graph would freeze the same state.
            self._disable(self.compute.disabled_because, warn=False)
        elif changed and self._warm_up_steps:  # the first step may create attributes
            self._disable(f"each step changes {', '.join(changed)}, which a replay would not")
        elif self.model.counters.were_read:
            self._disable("it reads task_iteration or epoch_iteration, which a replay would freeze")
        if all(buffer.has_static_reads for buffer in self._buffers):
            self._warm_up_steps += 1
            self._prepare(lazy, result)
        return result

    def _prepare(self, lazy: LazyBatch, result: StepResult) -> None:
        """Allocates what the graph reads and writes, once the first step shows what that is."""
        if self._batch is not None or not isinstance(result.loss, torch.Tensor):
            return
        self._order = None if lazy.window is None else EpochOrder(lazy.window)
        self._batch = StaticBatch(lazy, self._order)
        if self._losses is None or self._losses.values.dtype != result.loss.dtype:
            self._losses = LossRing(result.loss.dtype, result.loss.device)

    def _capture_step(self, key: tuple[Any, ...], lazy: LazyBatch, epoch: int) -> StepResult:
        """Captures a step and replays it for this batch; runs it in Python if that fails."""
        self._attributes.hold()
        try:
            assert self._batch is not None
            self._graph = self._captured(key, self._batch, epoch)
        except Exception as error:  # user code may raise anything
            self._disable((str(error).strip() or type(error).__name__).splitlines()[0])
            self._attributes.abandon()
            return self._run(lazy, epoch)
        self.state = StepState.CAPTURED
        return self._replay(self._graph, lazy)

    def _captured(self, key: tuple[Any, ...], batch: StaticBatch, epoch: int) -> CapturedGraph:
        """Captures a step, which stores and computes nothing yet."""
        seen = [buffer.num_seen_examples for buffer in self._buffers]

        def step() -> None:
            self._compute(batch, epoch)
            self._attributes.restore()

        growth: list[int] = []
        try:
            replay, _ = self._capture.capture(step)
        finally:
            for buffer, count in zip(self._buffers, seen, strict=True):
                growth.append(buffer.num_seen_examples - count)
                buffer.num_seen_examples = count
        return CapturedGraph(key, self._captured_storages(), batch, replay, growth)

    def _replay(self, graph: CapturedGraph, lazy: LazyBatch) -> StepResult:
        assert self._losses is not None
        self._attributes.put_back()
        graph.batch.fill(lazy)
        loss = self._losses.take()
        graph.replay()
        graph.batch.end_step()
        for buffer, count in zip(self._buffers, graph.growth, strict=True):
            buffer.num_seen_examples += count
        self.replays += 1
        return StepResult(loss, graph.batch.size)

    def _disable(self, reason: str, warn: bool = True) -> None:
        self.state = StepState.DISABLED
        self.reason = reason
        self._graph, self._ragged, self._batch = None, RaggedBatches(), None
        self._rates.restore(self.model.opt)
        if not warn:
            return
        warnings.warn(
            f"{type(self.model).__name__}: the training step could not be captured as a CUDA graph "
            f"({reason}). Training continues without it: same results, slower for small networks. "
            "To enable capture, avoid .item() and Python state in training_loss and after_step. To "
            "silence this warning, pass --cuda_graph off",
            stacklevel=3,
        )
