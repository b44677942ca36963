"""The training loop over tasks, epochs and batches."""

import signal
from collections.abc import Iterable
from typing import Any

import torch

from mammoth_compiled.backbones.contract import probe
from mammoth_compiled.compiler import counters
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.distributed import from_main, num_ranks, share
from mammoth_compiled.engine.batches import Batches
from mammoth_compiled.engine.captured_step import training_step
from mammoth_compiled.engine.clock import TaskClock
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.evaluations import Evaluations
from mammoth_compiled.engine.fitting import (
    DEBUG_BATCHES,
    FITTING_MODES,
    UNKNOWN_EPOCHS,
    num_epochs,
    num_steps,
    steps_left,
)
from mammoth_compiled.engine.interruption import Interruption
from mammoth_compiled.engine.losses import LossReader
from mammoth_compiled.engine.memory import begin_peak, out_of_memory, peak_memory
from mammoth_compiled.engine.notes import (
    note_compiler,
    note_decisions,
    note_steps,
    warn_if_nothing_compiles,
    warn_if_nothing_was_compiled,
)
from mammoth_compiled.engine.numerics import numerics
from mammoth_compiled.engine.observer import Observer, Observers, Run
from mammoth_compiled.engine.position import TaskPosition
from mammoth_compiled.engine.ranks import (
    StopAgreement,
    check_model,
    synchronize,
    trained_together,
)
from mammoth_compiled.engine.resume import begin_task, resume
from mammoth_compiled.engine.schedule import schedule
from mammoth_compiled.engine.stages import count_tasks, evaluate_again, skip_task
from mammoth_compiled.engine.user_errors import with_context
from mammoth_compiled.errors import raise_first
from mammoth_compiled.kernels.runtime import cpp_library
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.results import Results, plain_arguments


def run_tasks(
    model: ContinualModel,
    dataset: ContinualDataset,
    config: RunConfig,
    observers: Iterable[Observer] = (),
) -> Results:
    """Trains a model on all tasks of a dataset and evaluates it after each.

    This is the bare loop: it prints nothing and writes no file, observers do. On a CPU the process
    keeps freed memory from then on; see `device.keep_freed_memory`.

    SIGINT (Ctrl-C), SIGTERM and SIGHUP stop it after the current step; `results.interrupted` is
    then True. SIGTERM and SIGHUP act as usual once the observers have written what there is.

    Args:
        model: The model, as `load_runner` returns it.
        dataset: The dataset, likewise.
        config: All arguments.
        observers: Notified of what happens.

    Returns:
        Accuracy matrices, losses and timings.

    Raises:
        TrainingError: If the loss is not finite or the device is out of memory; says where.
        CheckpointError: If `config.files.loadcheck` does not fit the run.
    """
    compute = model.compute or Compute(model.device)
    results = Results(config=plain_arguments(config.to_namespace()))
    run = Run(model, dataset, config, compute, results, count_tasks(config, dataset))
    watching = Observers(observers)
    dataset.reset()
    model.net.to(model.device)
    check_model(model, config)
    compute.declare(map(share, model.net_batch_sizes()))
    if model.device.type == "cpu":
        keep_freed_memory()
    try:
        with numerics(model.device, config.compute.precision, config.compute.deterministic):
            resume(run)
            watching.notify("begin_run", run)
            errors = _train_and_report(run, watching)
    finally:
        closing = watching.close(run)
    raise_first([*errors, *closing])
    if run.stop_signal not in (None, signal.SIGINT):
        signal.raise_signal(run.stop_signal)
    return results


def _train_and_report(run: Run, observers: Observers) -> list[BaseException]:
    """Trains, lets the observers write what there is, and returns the errors of both."""
    with Interruption(run):
        errors = _train_and_keep(run, observers)
    if run.stop_signal is not None and _stops_alone(run) and not run.results.interrupted:
        signal.raise_signal(run.stop_signal)  # it came when the results were written
    if errors and not run.results.class_il:
        return errors
    return errors + observers.notify_all("end_run", run)


def _train_and_keep(run: Run, observers: Observers) -> list[BaseException]:
    """Trains, lets the observers keep the results, and returns the errors of both."""
    errors: list[BaseException] = []
    try:
        _train_tasks(run, observers)
    except torch.OutOfMemoryError as error:
        errors.append(out_of_memory(run).with_traceback(error.__traceback__))
    except KeyboardInterrupt:
        run.results.interrupted = True
    except Exception as error:
        errors.append(with_context(run, error))
    except SystemExit as error:  # of user code, such as a signal handler of its own
        errors.append(error)
    if errors:
        run.results.interrupted = True
        if not run.results.class_il:
            return errors
    return errors + observers.notify_all("keep_results", run)


def _train_tasks(run: Run, observers: Observers) -> None:
    training = run.config.training
    begin = after_first = counters.read()
    evaluations = Evaluations(run, observers)
    if training.inference_only and run.first_task:
        evaluate_again(run, observers, evaluations)
        return
    for task in range(run.first_task, run.num_tasks):
        run.task = task
        if task < training.start_from:
            skip_task(run)
            continue
        _train_task(run, observers, evaluations)
        if task == run.first_task:
            after_first = counters.read()
        if _stops_alone(run):
            raise KeyboardInterrupt
    note_compiler(run, counters.read() - begin, counters.read() - after_first)
    warn_if_nothing_was_compiled(run)


def _train_task(run: Run, observers: Observers, evaluations: Evaluations) -> None:
    model, dataset = run.model, run.dataset
    clock = TaskClock()
    begin_peak(model.device)
    model.net.train()
    begin_task(run)
    loader, _ = dataset.meta_get_data_loaders()
    run.task_sizes[run.task] = len(loader.dataset)
    _count_steps(run, loader)
    if run.task == run.first_task and run.resumed_from is None:
        _decide_compile(run)
    model.meta_begin_task(dataset)
    _count_steps(run, loader)
    losses = LossReader(run, observers)
    observers.notify("begin_task", run)
    num_images = 0
    if not run.config.training.inference_only:
        with trained_together(run):
            num_images = _fit(run, observers, evaluations, clock, losses, loader)
    model.meta_end_task(dataset)
    synchronize(model)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    evaluation = evaluations.after_task(clock)
    run.results.add(
        evaluation,
        **clock.read()._asdict(),
        images=num_images,
        peak_memory=peak_memory(model.device),
    )
    run.compute.remember_compilation()
    note_decisions(run)
    observers.notify("end_task", run, evaluation)


def _fit(
    run: Run,
    observers: Observers,
    evaluations: Evaluations,
    clock: TaskClock,
    losses: LossReader,
    loader: Any,
) -> int:
    """Trains on a task and returns the number of images."""
    model, dataset, config = run.model, run.dataset, run.config
    with (
        schedule(model, config, run.num_epochs, run.num_steps) as rates,
        training_step(model, run.compute, config.compute.cuda_graph) as step,
    ):
        batches = Batches(loader, can_save=run.saves_within)
        agree_to_stop = StopAgreement(run)
        fitting = FITTING_MODES[config.training.fitting_mode](run, clock)
        position = run.position = TaskPosition(run, clock, batches, fitting, losses, rates)
        for epoch in fitting.epochs(first=position.first_epoch):
            run.epoch = epoch
            model.meta_begin_epoch(epoch, dataset)
            _count_steps(run, loader)
            epoch_batches = position.begin_epoch(step)
            observers.notify("begin_epoch", run)
            while not fitting.is_over() and (lazy := next(epoch_batches, None)) is not None:
                run.step += 1
                result = step(lazy, epoch)
                losses.add(result.loss)
                rates.end_step()
                position.num_images += result.num_images
                stops = agree_to_stop()
                evaluations.after_step(clock)
                observers.notify("end_step", run, *result)
                if stops or _stops_alone(run):
                    raise KeyboardInterrupt
            model.meta_end_epoch(epoch, dataset)
            rates.end_epoch()
            fitting.end_epoch()
            evaluations.after_epoch(clock)
            observers.notify("end_epoch", run)
        fitting.end_task()
    run.position = None
    losses.read()
    note_steps(run, step)
    warn_if_nothing_compiles(run, step)
    return position.num_images


def _count_steps(run: Run, loader: Any) -> None:
    """Updates the number of steps and epochs; the model's hooks may change the training data."""
    debug = run.config.experiment.debug_mode
    run.steps_per_epoch = min(len(loader), DEBUG_BATCHES) if debug else len(loader)
    run.num_steps = num_steps(run.config, run.steps_per_epoch)
    run.num_epochs = num_epochs(run.config, run.steps_per_epoch)


def _stops_alone(run: Run) -> bool:
    """Returns whether a signal stops this process; several ranks stop by agreement."""
    return num_ranks() == 1 and run.stop_signal is not None


def _decide_compile(run: Run) -> None:
    """Decides whether the run is compiled, and checks a backbone that was not checked before."""
    dataset, net, experiment = run.dataset, run.model.net, run.config.experiment
    if dataset.input_shape() is None:
        probe(net, dataset.info().input_shape, dataset.N_CLASSES)
    evaluated = next(iter(dataset.test_loaders[0]))[0]
    images = evaluated[: experiment.batch_size]
    mode, per_step = run.config.compute.compile, share(run.model.images_per_step())
    steps = steps_left(run)
    if steps is None:
        steps = UNKNOWN_EPOCHS * run.steps_per_epoch * (run.num_tasks - run.task)
    run.compute.decide(mode, net, images, steps, per_step)
    run.compute.compile = from_main(run.compute.compile)
    if run.config.compute.sync_batchnorm:
        run.compute.compile, run.compute.reason = False, "--sync_batchnorm"
    if run.compute.compile and run.model.device.type == "cpu":
        cpp_library.build_in_background()
        # Other models evaluate something else, and a whole step calls no backbone.
        if type(run.model).forward is ContinualModel.forward and not run.compute.whole_step:
            run.compute.expect_evaluation(net, evaluated)
