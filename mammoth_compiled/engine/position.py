"""Where a run is within a task: what a checkpoint there contains besides the model."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mammoth_compiled.data import LazyBatch
from mammoth_compiled.device import set_random_state
from mammoth_compiled.engine.batches import Batches
from mammoth_compiled.engine.clock import TaskClock, TaskTimes
from mammoth_compiled.engine.fitting import Fitting
from mammoth_compiled.engine.losses import LossReader
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.engine.schedule import Schedule
from mammoth_compiled.engine.step import EagerStep
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.core.state import load_weights, restore_model


class TaskPosition:
    """The position of a run in a task, and everything that moves with it.

    Args:
        run: The run, in its current task.
        clock: The time of the task.
        batches: Its batches.
        fitting: How long it is trained.
        losses: Its losses.
        rates: Its learning rate schedule.

    Attributes:
        num_images: Images that it was trained on so far.
    """

    def __init__(
        self,
        run: Run,
        clock: TaskClock,
        batches: Batches,
        fitting: Fitting,
        losses: LossReader,
        rates: Schedule,
    ) -> None:
        self.run = run
        self.clock = clock
        self.batches = batches
        self.fitting = fitting
        self.losses = losses
        self.rates = rates
        self.num_images = 0

    def state_dict(self) -> dict[str, Any]:
        """Returns the position after the current step; reads the losses up to it."""
        self.losses.read()
        run = self.run
        return {
            "epoch": run.epoch,
            "step": run.step,
            "task_step": run.task_step,
            "images": self.num_images,
            "times": list(self.clock.read()),
            "batches": self.batches.state_dict(),
            "epochs_scheduled": self.rates.steps_done,
            "fitting": self.fitting.state_dict(),
            "last_loss": run.last_loss,
        }

    @property
    def first_epoch(self) -> int:
        """The epoch to continue with, 0 unless the run was resumed within the task."""
        run = self.run
        if run.resume_within is None:
            return 0
        if run.num_epochs is not None:
            self._check("epoch", run.num_epochs - 1)
        return int(run.resume_within["within"]["epoch"])

    def begin_epoch(self, step: EagerStep) -> Iterator[LazyBatch]:
        """Returns the batches of the epoch.

        The first time in a run that was resumed within a task, this restores the checkpoint and
        returns the batches that the epoch has left.

        Args:
            step: What runs the steps of the task.
        """
        run = self.run
        if run.resume_within is None:
            run.step = 0
            step.begin_epoch()
            return self.batches.begin_epoch(run.steps_per_epoch)
        self._check("step", run.steps_per_epoch)
        if not self.rates.is_own:
            self._check("epochs_scheduled", run.resume_within["within"]["task_step"])
        saved, run.resume_within = run.resume_within, None
        within = saved["within"]
        self.batches.load_state_dict(within["batches"])
        batches = self.batches.resume_epoch(run.steps_per_epoch, within["step"])
        self.batches.load_tensors(within["batches"])
        self._restore(saved, within)
        step.begin_epoch()
        run.model.counters.task, run.model.counters.epoch = within["task_step"], within["step"]
        return batches

    def _check(self, name: str, largest: int) -> None:
        """Checks that the task has the saved position; the model has set up its data by now."""
        run = self.run
        assert run.resume_within is not None
        saved = run.resume_within["within"][name]
        if saved > largest:
            raise CheckpointError(
                f"{run.resumed_from} is not a valid checkpoint of task {run.task + 1}: "
                f"within.{name} must be at most {largest}, got {saved}"
            )

    def _restore(self, saved: Mapping[str, Any], within: Mapping[str, Any]) -> None:
        run = self.run
        optimizer = getattr(run.model, "opt", None)
        before = [dict(group) for group in getattr(optimizer, "param_groups", [])]
        load_weights(run.model.net, saved["net"])
        restore_model(run.model, saved["model"]["state"])
        _restore_rates(getattr(optimizer, "param_groups", []), before)
        run.compute.load_state_dict(saved["compute"], run.config.compute.compile)
        self.rates.resume(within["epochs_scheduled"])
        self.fitting.load_state_dict(within["fitting"])
        self.clock.resume(TaskTimes(*within["times"]))
        self.num_images = within["images"]
        run.step = within["step"]
        run.last_loss = within["last_loss"]
        set_random_state(saved["random"])


def _restore_rates(groups: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """Keeps a learning rate that the checkpoint holds as float32, from a tensor on the GPU."""
    for group, old in zip(groups, before, strict=True):
        lr = old.get("lr")
        if isinstance(lr, float) and group.get("lr") == torch.tensor(lr).item():
            group["lr"] = lr
        if "capturable" in old:
            group["capturable"] = old["capturable"]
