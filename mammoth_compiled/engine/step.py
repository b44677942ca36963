"""The training step from the numbers of a batch's images to the updated weights and buffer.

On a GPU it becomes one CUDA graph: gather, augmentation, replay, forward, loss, backward,
optimiser, buffer and random numbers are launched at once, without Python in between.
"""

import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.data import LazyBatch
from mammoth_compiled.engine.cuda_graph import CudaRecorder, Recorder
from mammoth_compiled.engine.forward import policy_of
from mammoth_compiled.engine.syncs import counting
from mammoth_compiled.errors import DataError
from mammoth_compiled.models.base import ContinualModel

# Steps run in Python before the recording: graphs are compiled in them, tiles chosen and states of
# the optimiser made.
REHEARSALS = 3
# The step in which it is counted how often the host waits: by then most are recorded.
LOOK_AT = 40


@dataclass(frozen=True)
class _Recording:
    """A recorded step.

    Attributes:
        key: The code and the shapes it was recorded for.
        places: What it works with and where that lies; see `Step._places`.
        inputs: The tensors it makes its batch of, to be filled before a replay.
        loss: Filled by a replay, 0-d.
        replay: Runs it.
        growth: How many examples a step offers to each buffer.
    """

    key: tuple[Any, ...]
    places: list[Any]
    inputs: tuple[torch.Tensor, ...]
    loss: torch.Tensor
    replay: Callable[[], None]
    growth: list[int]


class Step:
    """Runs the training steps of a task.

    A step is recorded once reads of the buffer are static and a few steps were run, if `observe` is
    ContinualModel's own, so that `training_loss` and `after_step` say all it does. Ragged batches
    and steps before that run in Python and compute the same. A user's own `observe` always does.

    Use it as a context manager: what the optimiser needs for recordings is put back at the end.

    Args:
        model: The model.
        dataset_name: For messages.
        recorder: What records; None takes CUDA graphs where the model is on a GPU and compiled.

    Attributes:
        model: The model.
        replays: Steps that were replayed so far.
        waits: Where the host waited for the device in the step that was looked at, the LOOK_AT-th;
            None before it.
        reason: Why nothing is recorded, "" while nothing is against it.
    """

    def __init__(
        self, model: ContinualModel, dataset_name: str, recorder: Recorder | None = None
    ) -> None:
        self.replays = 0
        self.waits: list[str] | None = None
        self._steps = 0
        self.model = model
        self._dataset_name = dataset_name
        self._recorder = recorder or _recorder_for(model)
        self._buffers: list[Buffer] = []
        self._recording: _Recording | None = None
        self._rehearsed: tuple[Any, ...] | None = None
        self._rehearsals = 0
        self._rates: dict[int, torch.Tensor] = {}
        self._before: dict[int, dict[str, Any]] = {}
        self.reason = ""
        if self._recorder is None:
            self.reason = "there is no GPU, or compiling or CUDA graphs are switched off"
        elif type(model).observe is not ContinualModel.observe:
            self.reason = f"{type(model).__name__} has an observe of its own"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._recording = None
        self._put_lr_back()

    def begin_epoch(self) -> None:
        """Looks whether what steps work with is still where it was; call it before each epoch."""
        if self.reason:
            return
        values = vars(self.model).values()
        self._buffers = [value for value in values if isinstance(value, Buffer)]
        self._move_lr()
        if self._recording is not None and self._recording.places != self._places():
            self._recording = self._rehearsed = None

    def _places(self) -> list[Any]:
        """Returns what a recording works with beside its inputs, and where it lies in memory."""
        model = self.model
        tensors = [*model.parameters(), *model.buffers()]
        tensors += [group["lr"] for group in _groups(model)]
        for buffer in self._buffers:
            tensors += buffer.tensors()
        learnt = [parameter.requires_grad for parameter in model.parameters()]
        where = [tensor.data_ptr() for tensor in tensors]
        return [model.net, model.net.training, model.opt, *self._buffers, *learnt, *where]

    def __call__(self, lazy: LazyBatch, epoch: int) -> tuple[torch.Tensor | float, int]:
        """Learns from one batch.

        Args:
            lazy: The batch, not materialized yet.
            epoch: Current epoch from 0.

        Returns:
            The loss and the number of images.

        Raises:
            DataError: If the batch has not three parts.
        """
        self._steps += 1
        if self._steps != LOOK_AT:
            return self._learn(lazy, epoch)
        with counting(self.model.device) as self.waits:
            return self._learn(lazy, epoch)

    def _learn(self, lazy: LazyBatch, epoch: int) -> tuple[torch.Tensor | float, int]:
        if self.reason:
            return self._run(lazy, epoch)
        materialize, tensors = lazy.materialize, lazy.tensors
        # What a user's own loader hands over may be anything, and anywhere.
        where = {t.device.type if isinstance(t, torch.Tensor) else None for t in tensors}
        if where != {self.model.device.type}:
            return self._run(lazy, epoch)
        key = (materialize, [(tensor.shape, tensor.dtype) for tensor in tensors])
        recording = self._recording
        if recording is not None:
            if recording.key == key:
                return self._replay(recording, lazy)
            if len(tensors[0]) < len(recording.inputs[0]):
                return self._run(lazy, epoch)  # the ragged last batch
        if self._rehearsed != key:
            self._recording, self._rehearsed, self._rehearsals = None, key, 0
        if self._rehearsals < REHEARSALS:
            return self._rehearse(lazy, epoch)
        return self._record(key, lazy, epoch)

    def _run(self, lazy: LazyBatch, epoch: int) -> tuple[torch.Tensor | float, int]:
        batch = lazy.materialize(*lazy.tensors)
        if len(batch) < 3:
            raise DataError(
                f"dataset {self._dataset_name!r}: items of the training set must be (image, label, "
                f"not augmented image), but have {len(batch)} parts"
            )
        inputs, labels, not_aug_inputs = batch[:3]
        loss = self.model.observe(inputs, labels, not_aug_inputs, epoch=epoch)
        return loss, len(labels)

    def _rehearse(self, lazy: LazyBatch, epoch: int) -> tuple[torch.Tensor | float, int]:
        """Runs a step in Python as it is recorded later, and looks what it changes there."""
        assert self._recorder is not None
        before = _python_values(self.model)
        with self._recorder.rehearse():
            result = self._run(lazy, epoch)
        after = _python_values(self.model)
        changed = sorted(name for name in after if after[name] != before.get(name))
        if changed and self._rehearsals:  # what the first one makes does not count
            self._give_up(f"each step changes {', '.join(changed)}, which a replay would not do")
        self._rehearsals += all(buffer.has_static_reads for buffer in self._buffers)
        return result

    def _record(
        self, key: tuple[Any, ...], lazy: LazyBatch, epoch: int
    ) -> tuple[torch.Tensor | float, int]:
        """Records a step and replays it for this batch; if that fails runs it in Python."""
        assert self._recorder is not None
        inputs = tuple(tensor.clone() for tensor in lazy.tensors)
        captured = LazyBatch(lazy.materialize, inputs)
        seen = [buffer.num_seen_examples for buffer in self._buffers]
        try:
            replay, (loss, _) = self._recorder.record(lambda: self._run(captured, epoch))
        except Exception as error:  # the step is partly the user's: it may raise anything
            self._give_up((str(error).strip() or type(error).__name__).splitlines()[0])
            loss = None
        growth = [
            buffer.num_seen_examples - n for buffer, n in zip(self._buffers, seen, strict=True)
        ]
        for buffer, count in zip(self._buffers, seen, strict=True):
            buffer.num_seen_examples = count  # recording has offered nothing yet
        if loss is None:
            return self._run(lazy, epoch)
        self._recording = _Recording(key, self._places(), inputs, loss, replay, growth)
        return self._replay(self._recording, lazy)

    def _replay(self, recording: _Recording, lazy: LazyBatch) -> tuple[torch.Tensor, int]:
        for tensor, value in zip(recording.inputs, lazy.tensors, strict=True):
            tensor.copy_(value, non_blocking=True)
        recording.replay()
        for buffer, count in zip(self._buffers, recording.growth, strict=True):
            buffer.num_seen_examples += count
        self.replays += 1
        return recording.loss.clone(), len(recording.inputs[0])

    def _give_up(self, reason: str) -> None:
        """Goes on in Python for good and says why, once."""
        self.reason = reason
        self._recording = None
        self._put_lr_back()
        warnings.warn(
            f"the training step of {type(self.model).__name__} is not run as one CUDA graph, "
            f"because {reason}. Results are the same, but Python launches every kernel, which "
            "small networks wait for. Keep training_loss and after_step free of .item() and of "
            "what changes outside tensors, or choose --cuda_graph off",
            stacklevel=3,
        )

    def _move_lr(self) -> None:
        """Puts step sizes on the device, where recordings see what becomes of them."""
        for k, group in enumerate(_groups(self.model)):
            if isinstance(group["lr"], torch.Tensor):
                continue
            # In the same tensor each time: a hook may set a number before each epoch.
            rate = self._rates.setdefault(k, torch.empty((), device=self.model.device))
            self._before[k] = {name: group[name] for name in ("lr", "capturable") if name in group}
            group["lr"] = rate.fill_(group["lr"])
            if "capturable" in group:
                group["capturable"] = True

    def _put_lr_back(self) -> None:
        for k, group in enumerate(_groups(self.model)):
            rate = self._rates.get(k)
            if rate is None or group["lr"] is not rate:
                continue
            now, before = float(rate), self._before[k]
            # A float32 says only nearly what it was.
            same = now == torch.tensor(before["lr"]).item()
            group |= before if same else before | {"lr": now}


def _groups(model: ContinualModel) -> list[dict[str, Any]]:
    groups = getattr(model.opt, "param_groups", [])
    return [group for group in groups if "lr" in group]


def _recorder_for(model: ContinualModel) -> Recorder | None:
    policy = policy_of(model.net)
    wanted = getattr(model.args, "cuda_graph", "auto") != "off"
    compiled = policy is not None and policy.compile
    if not (wanted and compiled and model.device.type == "cuda"):
        return None
    return CudaRecorder(model.device)


def _python_values(model: ContinualModel) -> dict[str, Any]:
    """Returns what Python alone remembers: numbers, texts and the lengths of containers."""
    values = {}
    for name, value in vars(model).items():
        if isinstance(value, (bool, int, float, str)) or value is None:
            values[name] = value
        elif isinstance(value, (list, dict, set, deque)):
            values[name] = len(value)
    return values
