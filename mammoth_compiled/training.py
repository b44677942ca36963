"""train: the training loop with the usual observers; run_experiment: a whole run."""

import contextlib
from argparse import Namespace
from collections.abc import Callable, Iterable

from mammoth_compiled import distributed
from mammoth_compiled.config import RunConfig
from mammoth_compiled.console import quiet
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import get_device, set_base_path
from mammoth_compiled.engine import Observer, Run, run_tasks
from mammoth_compiled.engine.ranks import shared_arguments
from mammoth_compiled.engine.run_folder import errors_in_log, folder_of, run_folder
from mammoth_compiled.errors import TrainingError
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.observers import command_line_observers, default_observers
from mammoth_compiled.results import Results
from mammoth_compiled.runner import build
from mammoth_compiled.types import Evaluation


def train(
    model: ContinualModel,
    dataset: ContinualDataset,
    args: Namespace | None = None,
    after_task: Callable[[Results], None] | None = None,
    observers: Iterable[Observer] = (),
) -> Results:
    """Trains a model on all tasks of a dataset and evaluates it after each.

    Prints one line for each event, shows a progress bar on a terminal, and writes what the
    arguments ask for: checkpoints, logs, a run folder. On a CPU the process keeps freed memory from
    then on; see `device.keep_freed_memory`.

    Args:
        model: The model, as `load_runner` returns it.
        dataset: The dataset, likewise.
        args: Arguments; None takes those of the model.
        after_task: Called after each task with the results so far.
        observers: Notified of what happens, after the usual ones.

    Returns:
        Accuracy matrices, losses and timings.

    Raises:
        TrainingError: If the loss is not finite or the device is out of memory; says where.
        CheckpointError: If `args.loadcheck` does not fit the run.

    Example:
        >>> import mammoth_compiled as mc
        >>> args = {"backbone": "mnistmlp", "debug_mode": 1, "compile": "off"}
        >>> runner = mc.load_runner("sgd", "seq-fmnist-mini", args)
        >>> results = mc.train(*runner)  # doctest: +ELLIPSIS
        compile: off (--compile off)
        Accuracy after task 1: ...
        >>> len(results.class_il)
        5
    """
    config = RunConfig.from_namespace(model.args if args is None else args)
    watching = [*default_observers(config), *observers]
    if after_task is not None:
        watching.append(_AfterTask(after_task))
    if distributed.rank():  # the first rank speaks and writes for all
        watching = []
    is_quiet = config.logging.quiet or bool(distributed.rank())
    with quiet(is_quiet), errors_in_log(folder_of(config)):
        return run_tasks(model, dataset, config, watching)


def run_experiment(args: Namespace, observers: Iterable[Observer] = ()) -> Results:
    """Builds a model and a dataset and trains as the command line does, with a run folder.

    Args:
        args: All arguments of the run, resolved; `out` becomes the run folder.
        observers: Notified of what happens, after the usual ones.

    Raises:
        MammothError: If an argument is invalid or the run fails.
    """
    set_base_path(args.data_dir)  # user-defined datasets read their files from there
    with contextlib.ExitStack() as stack:
        stack.enter_context(distributed.session(get_device(args.device).type))
        if distributed.rank() == 0:
            config = RunConfig.from_namespace(args)
            stack.enter_context(quiet(args.quiet))
            args.out = stack.enter_context(run_folder(config))
        shared_arguments(args)
        # Before the model is built: an observer raises at once if it cannot write its output.
        watching = command_line_observers(RunConfig.from_namespace(args))
        try:
            return train(*build(args), observers=[*watching, *observers])
        except RuntimeError as error:
            if distributed.num_ranks() > 1 and "by peer" in str(error):
                raise TrainingError(
                    "another process of this run has ended: its message says why"
                ) from error
            raise


class _AfterTask(Observer):
    """Calls a function with the results after each task."""

    def __init__(self, function: Callable[[Results], None]) -> None:
        self._function = function

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        self._function(run.results)
