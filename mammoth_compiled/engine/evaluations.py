"""When a run evaluates: after tasks, within them, and on tasks not seen yet."""

import copy

import torch

from mammoth_compiled.data import TaskLoader
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import kept_random_state
from mammoth_compiled.engine.clock import TaskClock
from mammoth_compiled.engine.evaluate import evaluate, evaluate_untrained
from mammoth_compiled.engine.observer import Observers, Run
from mammoth_compiled.types import Evaluation


class Evaluations:
    """Evaluates a run when its arguments ask for it.

    Evaluations within tasks leave the random state as it is, so that training does not depend on
    them.

    Args:
        run: The run, before its first task.
        observers: Notified of evaluations within tasks.
    """

    def __init__(self, run: Run, observers: Observers) -> None:
        self._run = run
        self._observers = observers
        self._tests: list[TaskLoader] = []
        if run.config.training.eval_future:
            with kept_random_state():
                self._tests = all_test_loaders(run.dataset)
                if not run.results.class_il:
                    initial = evaluate_untrained(run.model, run.dataset, self._tests)
                    run.results.initial_class_il, run.results.initial_task_il = initial

    def after_step(self, clock: TaskClock) -> None:
        """Evaluates if `--eval_every` asks for it after the current step."""
        every = self._run.config.training.eval_every
        if every is not None and self._run.task_step % every == 0:
            self._evaluate_within(clock)

    def after_epoch(self, clock: TaskClock) -> None:
        """Evaluates if `--eval_epochs` asks for it after the current epoch."""
        every = self._run.config.training.eval_epochs
        if every is not None and (self._run.epoch + 1) % every == 0:
            self._evaluate_within(clock)

    def after_task(self, clock: TaskClock) -> Evaluation:
        """Evaluates after a task."""
        model, dataset = self._run.model, self._run.dataset
        with clock.evaluation():
            model.meta_begin_eval(dataset)
            evaluation = evaluate(model, dataset, self._tests[len(dataset.test_loaders) :])
            model.meta_end_eval(dataset, evaluation)
        return evaluation

    def _evaluate_within(self, clock: TaskClock) -> None:
        run = self._run
        if run.model.device.type == "cuda":
            torch.cuda.synchronize()
        with clock.evaluation(), kept_random_state():
            evaluation = evaluate(run.model, run.dataset)
        point = {
            "task": run.task,
            "epoch": run.epoch,
            "step": run.task_step,
            "class_il": evaluation.class_il,
            "task_il": evaluation.task_il,
            "loss": evaluation.loss,
        }
        run.results.curve.append(point)
        self._observers.notify("end_evaluation", run, evaluation)


def all_test_loaders(dataset: ContinualDataset) -> list[TaskLoader]:
    """Returns the test batches of every task, also of those not seen yet; keeps the dataset.

    Draws random numbers if the dataset does.
    """
    other = copy.copy(dataset)
    other.reset()
    for _ in range(dataset.num_stages):
        other.meta_get_data_loaders()
    return other.test_loaders
