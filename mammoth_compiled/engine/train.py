"""The training loop over the tasks."""

import sys
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from tqdm.auto import tqdm

from mammoth_compiled.backbones.contract import probe
from mammoth_compiled.buffers import Buffer
from mammoth_compiled.compiler import counters
from mammoth_compiled.console import say
from mammoth_compiled.data import TaskLoader, ready_batch
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import keep_freed_memory
from mammoth_compiled.engine.evaluate import evaluate
from mammoth_compiled.engine.forward import policy_of
from mammoth_compiled.engine.monitor import LossMonitor
from mammoth_compiled.engine.policy import batch_sizes, decide
from mammoth_compiled.engine.saving import resume, save
from mammoth_compiled.engine.schedule import schedule
from mammoth_compiled.engine.step import Step
from mammoth_compiled.errors import TrainingError
from mammoth_compiled.metrics import Results, average, plain_arguments
from mammoth_compiled.models.base import ContinualModel

DEBUG_BATCHES = 6


def train(
    model: ContinualModel,
    dataset: ContinualDataset,
    args: Namespace | None = None,
    after_task: Callable[[Results], None] | None = None,
) -> Results:
    """Trains a model on all tasks of a dataset, evaluating after each.

    On a CPU the process keeps freed memory from then on; see `device.keep_freed_memory`.

    Args:
        model: The model, as `load_runner` returns it.
        dataset: The dataset, likewise.
        args: Arguments; None takes the model's own.
        after_task: Called after each task with the results so far.

    Returns:
        Accuracy matrices, losses and timings.

    Raises:
        TrainingError: If the loss is not finite or the device's memory is spent; says where.
        CheckpointError: If `args.loadcheck` does not fit.
    """
    args = model.args if args is None else args
    results = Results(config=plain_arguments(args))
    dataset.reset()
    model.net.to(model.device)
    if model.device.type == "cpu":
        keep_freed_memory()
    done = resume(model, dataset, args, results) if getattr(args, "loadcheck", None) else 0
    begin = counters.read()
    try:
        for stage in range(done, dataset.num_stages):
            _train_stage(model, dataset, args, results, stage)
            if after_task is not None:
                after_task(results)
            if stage == done:
                warm = counters.read()
    except torch.OutOfMemoryError as error:
        raise TrainingError(_out_of_memory(model, dataset, args)) from error
    except KeyboardInterrupt:
        results.interrupted = True
        say("Training interrupted: the results hold the tasks finished so far")
    else:
        if done < dataset.num_stages and results.notes.get("compile"):
            _report_compiler(results, counters.read() - begin, counters.read() - warm)
        _report_step(results)
    return results


def _out_of_memory(model: ContinualModel, dataset: ContinualDataset, args: Namespace) -> str:
    """Returns what the device held and which arguments to lower."""
    sizes = {"weights": sum(p.nbytes for p in model.parameters())}
    if isinstance(getattr(model, "buffer", None), Buffer):
        sizes["buffer"] = sum(
            t.nbytes for t in model.buffer.serialize(model.buffer.device).values()
        )
    if dataset.train_loader is not None:
        sizes["images of the task"] = int(getattr(dataset.train_loader.dataset.data, "nbytes", 0))
    held = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.items())
    flags = [
        f"--{name}" for name in ("batch_size", "minibatch_size", "buffer_size") if name in args
    ]
    return (
        f"out of memory on {model.device} at task {len(dataset.test_loaders)}, which held {held}, "
        f"and the activations of a batch. Lower {', '.join(flags)}, or use --amp bf16"
    )


def _report_compiler(results: Results, run: counters.Counters, later: counters.Counters) -> None:
    results.notes["compiler"] = {
        "graphs": run.graphs,
        "graphs_after_first_task": later.graphs,
        "graph_breaks": run.graph_breaks,
        "seconds": run.seconds,
    }
    say(
        f"compiled: {run.graphs} graphs in {run.seconds:.1f} s, {later.graphs} of them after the "
        f"first task, {run.graph_breaks} graph breaks"
    )


def _report_step(results: Results) -> None:
    """Says how steps were run on a GPU; a CPU has neither graphs nor waits to tell of."""
    if (step := results.notes.get("step")) is None:
        return
    how = f"{step['replayed']:,} training steps were one CUDA graph each"
    if step["reason"]:
        how += f" (others were not: {step['reason']})"
    say(f"steps: {how}; the host waited {step['host_syncs_per_step']} times in a step looked at")


def _train_stage(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results, stage: int
) -> None:
    started, compiled = time.perf_counter(), counters.read()
    model.net.train()
    loader, _ = dataset.meta_get_data_loaders()
    if stage == len(results.class_il) and "compile" not in results.notes:
        _decide_compile(model, dataset, args, results)
    model.begin_task(dataset)
    monitor = LossMonitor(model, stage + 1)
    images = 0
    with (
        _progress(_steps_per_epoch(loader, args) * args.n_epochs) as bar,
        schedule(model, args) as end_of_epoch,
        Step(model, args.dataset) as step,
    ):
        for epoch in range(args.n_epochs):
            bar.set_description(f"Task {stage + 1}/{dataset.num_stages}, epoch {epoch + 1}")
            model.begin_epoch(epoch, dataset)
            step.begin_epoch()
            images += _train_epoch(step, loader, args, epoch, monitor, bar)
            end_of_epoch()
            model.end_epoch(epoch, dataset)
    monitor.read()
    _note_step(results, step)
    model.end_task(dataset)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    trained, compiling = time.perf_counter(), counters.read() - compiled
    evaluation = evaluate(model, dataset)
    results.add(
        evaluation,
        train_s=trained - started,
        compile_s=compiling.seconds,
        eval_s=time.perf_counter() - trained,
        images=images,
    )
    say(
        f"Accuracy after task {stage + 1}: "
        f"[Class-IL] {100 * average(evaluation.class_il):.2f} %  "
        f"[Task-IL] {100 * average(evaluation.task_il):.2f} %  (test loss {evaluation.loss:.4f})"
    )
    if (policy := policy_of(model.net)) is not None:
        results.notes["compile"] = policy.compile  # it may have failed since it was decided
    when = getattr(args, "savecheck", None)
    if when == "task" or (when == "last" and stage + 1 == dataset.num_stages):
        path = save(model, dataset, args, results, stage + 1)
        say(f"checkpoint: {path}")


def _note_step(results: Results, step: Step) -> None:
    if step.model.device.type != "cuda":
        return
    notes = results.notes.setdefault(
        "step", {"replayed": 0, "reason": "", "host_syncs_per_step": None}
    )
    notes["replayed"] += step.replays
    notes["reason"] = step.reason or notes["reason"]
    if step.waits is not None:
        notes["host_syncs_per_step"] = len(step.waits)


def _steps_per_epoch(loader: Any, args: Namespace) -> int:
    steps = len(loader)
    return min(steps, DEBUG_BATCHES) if getattr(args, "debug_mode", False) else steps


def _train_epoch(
    step: Step, loader: Any, args: Namespace, epoch: int, monitor: LossMonitor, bar: Any
) -> int:
    """Runs one epoch and returns the number of images learnt."""
    images = 0
    # A loader of the user's own makes its batches itself.
    batches = loader.lazy_batches() if isinstance(loader, TaskLoader) else map(ready_batch, loader)
    for number, lazy in enumerate(islice(batches, _steps_per_epoch(loader, args)), start=1):
        loss, count = step(lazy, epoch)
        monitor.add(loss, epoch + 1, number)
        images += count
        if not bar.disable:  # tqdm formats the values even of a bar that nobody sees
            bar.set_postfix(
                {**step.model.pbar_suffix, "loss": monitor.last, "lr": monitor.lr}, refresh=False
            )
        bar.update()
    return images


def _progress(total: int) -> Any:
    notebook = "ipykernel" in sys.modules
    return tqdm(
        total=total, mininterval=0.2, leave=False, disable=not (notebook or sys.stderr.isatty())
    )


def _decide_compile(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results
) -> None:
    """Decides whether the run is compiled, says so, and checks a backbone not checked before."""
    policy = policy_of(model.net)
    if policy is None:
        return
    loader = dataset.train_loader
    images = next(iter(dataset.test_loaders[0]))[0][: args.batch_size]
    if dataset.input_shape() is None:
        probe(model.net, dataset.info().input_shape, dataset.N_CLASSES)
    steps = _steps_per_epoch(loader, args) * args.n_epochs * dataset.num_stages
    choice = decide(getattr(args, "compile", "auto"), model.device, model.net, images, steps)
    policy.compile = choice.compile
    policy.batch_sizes = batch_sizes(args)
    results.notes["compile"] = choice.compile
    say(f"compile: {'on' if choice.compile else 'off'} ({choice.reason})")
