"""Which tasks of a dataset a run trains on, and what it does instead with the others."""

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.engine.clock import TaskClock
from mammoth_compiled.engine.evaluations import Evaluations
from mammoth_compiled.engine.observer import Observers, Run
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.types import Evaluation


def count_tasks(config: RunConfig, dataset: ContinualDataset) -> int:
    """Returns the number of tasks of a run, those before `--start_from` included.

    Raises:
        ConfigError: If the dataset has fewer tasks than the arguments ask for.
    """
    for name in ("start_from", "stop_after"):
        value = getattr(config.training, name) or 0
        limit = dataset.num_stages - (name == "start_from")
        if value > limit:
            tasks = "one task" if dataset.num_stages == 1 else f"{dataset.num_stages} tasks"
            joint = " in joint training" if dataset.joint else ""
            raise ConfigError(
                f"--{name} {value}: dataset {dataset.NAME!r} has {tasks}{joint}, so at most {limit}"
            )
    return config.training.stop_after or dataset.num_stages


def skip_task(run: Run) -> None:
    """Passes over a task, as Mammoth does: its hooks are called, but nothing is trained."""
    run.dataset.meta_get_data_loaders()
    run.model.meta_begin_task(run.dataset)
    run.model.meta_end_task(run.dataset)
    run.results.add(Evaluation(), train_s=0.0, eval_s=0.0, images=0)
    run.first_task = run.task + 1


def evaluate_again(run: Run, observers: Observers, evaluations: Evaluations) -> None:
    """Evaluates a checkpoint on the tasks it has seen, in place of its last results."""
    run.task = run.first_task - 1
    evaluation = evaluations.after_task(TaskClock())
    run.results.replace_last(evaluation)
    observers.notify("end_task", run, evaluation)
