"""The training loop over the tasks."""

import math
import sys
import time
from argparse import Namespace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from mammoth_compiled.backbones.contract import probe
from mammoth_compiled.checkpoint import read_checkpoint, write_checkpoint
from mammoth_compiled.compiler import counters
from mammoth_compiled.console import say
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE, ContinualDataset
from mammoth_compiled.device import base_path, random_state, set_random_state
from mammoth_compiled.engine.evaluate import evaluate
from mammoth_compiled.engine.forward import ForwardPolicy, NetRunner
from mammoth_compiled.engine.policy import decide
from mammoth_compiled.errors import CheckpointError, DataError, TrainingError
from mammoth_compiled.metrics import Results, average
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.models.state import model_state, restore_model
from mammoth_compiled.registry import backbones

DEBUG_BATCHES = 6
# On a GPU reading a loss makes the host wait; this many steps are read at once.
READ_EVERY = 50


def train(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace | None = None
) -> Results:
    """Trains a model on all tasks of a dataset, evaluating after each.

    Args:
        model: The model, as `load_runner` returns it.
        dataset: The dataset, likewise.
        args: Arguments; None takes the model's own.

    Returns:
        Accuracy matrices, losses and timings.

    Raises:
        TrainingError: If the loss is not finite; says where.
        CheckpointError: If `args.loadcheck` does not fit.
    """
    args = model.args if args is None else args
    results = Results(config={k: v for k, v in vars(args).items() if _is_json(v)})
    dataset.reset()
    model.net.to(model.device)
    done = _resume(model, dataset, args, results) if getattr(args, "loadcheck", None) else 0
    begin = counters.read()
    try:
        for stage in range(done, dataset.num_stages):
            _train_stage(model, dataset, args, results, stage)
            if stage == done:
                warm = counters.read()
    except KeyboardInterrupt:
        results.interrupted = True
        say("Training interrupted: the results hold the tasks finished so far")
    else:
        if done < dataset.num_stages and results.notes.get("compile"):
            _report_compiler(results, counters.read() - begin, counters.read() - warm)
    return results


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


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_json(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _train_stage(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results, stage: int
) -> None:
    started = time.perf_counter()
    model.net.train()
    loader, _ = dataset.meta_get_data_loaders()
    if stage == len(results.class_il) and "compile" not in results.notes:
        _decide_compile(model, dataset, args, results)
    model.begin_task(dataset)
    monitor = LossMonitor(model, stage + 1)
    images = 0
    with _progress(_steps_per_epoch(loader, args) * args.n_epochs) as bar:
        for epoch in range(args.n_epochs):
            bar.set_description(f"Task {stage + 1}/{dataset.num_stages}, epoch {epoch + 1}")
            model.begin_epoch(epoch, dataset)
            images += _train_epoch(model, loader, args, epoch, monitor, bar)
            model.end_epoch(epoch, dataset)
    monitor.read()
    model.end_task(dataset)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    trained = time.perf_counter()
    evaluation = evaluate(model, dataset)
    results.add(evaluation, trained - started, time.perf_counter() - trained, images)
    say(
        f"Accuracy after task {stage + 1}: "
        f"[Class-IL] {100 * average(evaluation.class_il):.2f} %  "
        f"[Task-IL] {100 * average(evaluation.task_il):.2f} %  (test loss {evaluation.loss:.4f})"
    )
    when = getattr(args, "savecheck", None)
    if when == "task" or (when == "last" and stage + 1 == dataset.num_stages):
        path = save(model, dataset, args, results, stage + 1)
        say(f"checkpoint: {path}")


def _steps_per_epoch(loader: Any, args: Namespace) -> int:
    steps = len(loader)
    return min(steps, DEBUG_BATCHES) if getattr(args, "debug_mode", False) else steps


def _train_epoch(
    model: ContinualModel,
    loader: Any,
    args: Namespace,
    epoch: int,
    monitor: "LossMonitor",
    bar: Any,
) -> int:
    """Runs one epoch and returns the number of images learnt."""
    images = 0
    for step, batch in enumerate(islice(loader, _steps_per_epoch(loader, args))):
        if len(batch) < 3:
            raise DataError(
                f"dataset {args.dataset!r}: items of the training set must be (image, label, not "
                f"augmented image), but have {len(batch)} parts"
            )
        inputs, labels, not_aug_inputs = batch[:3]
        loss = model.observe(inputs, labels, not_aug_inputs, epoch=epoch)
        monitor.add(loss, epoch + 1, step + 1)
        images += len(labels)
        bar.set_postfix(
            {**model.pbar_suffix, "loss": monitor.last, "lr": monitor.lr}, refresh=False
        )
        bar.update()
    return images


class LossMonitor:
    """Looks at the losses of a task, on a GPU several at once, and stops at one not finite.

    Args:
        model: The model in training.
        task: Task number for the message, from 1.
    """

    def __init__(self, model: ContinualModel, task: int) -> None:
        self.last = float("nan")
        self._model = model
        self._task = task
        self._every = READ_EVERY if model.device.type == "cuda" else 1
        self._pending: list[tuple[Any, int, int]] = []

    @property
    def lr(self) -> float:
        """The current step size."""
        return float(self._model.opt.param_groups[0]["lr"])

    def add(self, loss: float | torch.Tensor, epoch: int, step: int) -> None:
        """Takes the loss of a step; both counts are from 1.

        Raises:
            TrainingError: If it, or one before it, is not finite.
        """
        self._pending.append((loss, epoch, step))
        if len(self._pending) >= self._every or not isinstance(loss, torch.Tensor):
            self.read()

    def read(self) -> None:
        """Waits for the losses taken and checks them."""
        pending, self._pending = self._pending, []
        tensors = [loss for loss, _, _ in pending if isinstance(loss, torch.Tensor)]
        values = iter(
            torch.stack([t.detach().reshape(()) for t in tensors]).tolist() if tensors else []
        )
        for loss, epoch, step in pending:
            self.last = next(values) if isinstance(loss, torch.Tensor) else float(loss)
            if not math.isfinite(self.last):
                raise TrainingError(
                    f"the loss became {self.last} in task {self._task}, epoch {epoch}, step {step} "
                    f"(lr {self.lr:g}): try a smaller --lr, or check the images for values that "
                    "are not finite"
                )


def _progress(total: int) -> Any:
    notebook = "ipykernel" in sys.modules
    return tqdm(
        total=total, mininterval=0.2, leave=False, disable=not (notebook or sys.stderr.isatty())
    )


def _decide_compile(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results
) -> None:
    """Decides whether the run is compiled, says so, and checks a backbone not checked before."""
    policy = _policy(model)
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


def _policy(model: ContinualModel) -> ForwardPolicy | None:
    """Returns how the backbone is run; None for one that the framework did not build."""
    runner = model.net.__dict__.get("_runner")
    return runner.policy if isinstance(runner, NetRunner) else None


def batch_sizes(args: Namespace) -> set[int]:
    """Returns the sizes of full batches: stream, replay, both together, evaluation."""
    stream, replay = args.batch_size, getattr(args, "minibatch_size", None) or args.batch_size
    return {stream, replay, stream + replay, stream + 2 * replay, EVAL_BATCH_SIZE}


def save(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results, done: int
) -> Path:
    """Writes a checkpoint and returns its path."""
    folder = Path(getattr(args, "checkpoint_path", None) or Path(base_path()) / "checkpoints")
    seed = "" if args.seed is None else f"_seed{args.seed}"
    path = folder / f"{args.model}_{args.dataset}_{args.backbone}{seed}_task{done}.pt"
    names = [p.name for p in backbones[args.backbone].parameters]
    content = {
        "net": model.net.state_dict(),
        "backbone": {
            "name": args.backbone,
            "arguments": {name: getattr(args, name) for name in names if hasattr(args, name)},
        },
        "data": dataset.info().to_dict(),
        "model": {"name": args.model, "state": model_state(model)},
        "calls_seen": sorted(policy.seen) if (policy := _policy(model)) else [],
        "random": random_state(),
        "args": {k: v for k, v in vars(args).items() if _is_json(v)},
        "results": results.state_dict(),
        "tasks_done": done,
    }
    return write_checkpoint(path, content)


def _resume(
    model: ContinualModel, dataset: ContinualDataset, args: Namespace, results: Results
) -> int:
    """Puts a run back to where a checkpoint was written; returns how many tasks are done."""
    saved = read_checkpoint(args.loadcheck)
    names = {
        "model": saved["model"]["name"],
        "dataset": saved["data"]["name"],
        "backbone": saved["backbone"]["name"],
        **{name: saved["args"][name] for name in ("joint", "optimizer") if name in saved["args"]},
    }
    for kind, was in names.items():
        now = getattr(args, kind, was)
        if was != now:
            raise CheckpointError(
                f"{args.loadcheck} is from {kind} {was!r}, this run has {now!r}: use --{kind} {was}"
            )
    if saved["tasks_done"] > dataset.num_stages:
        raise CheckpointError(f"{args.loadcheck} has {saved['tasks_done']} tasks, the run fewer")
    try:
        model.net.load_state_dict(saved["net"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{args.loadcheck} does not fit backbone {args.backbone!r} as built here: {error}"
        ) from error
    # The loaders of finished tasks are needed for their test images.
    for _ in range(saved["tasks_done"]):
        dataset.meta_get_data_loaders()
    restore_model(model, saved["model"]["state"])
    results.load_state_dict(saved["results"])
    policy = _policy(model)
    if policy is not None:
        policy.compile = bool(saved["results"]["notes"].get("compile", False))
        policy.batch_sizes = batch_sizes(args)
        policy.seen = set(saved["calls_seen"])
    set_random_state(saved["random"])
    say(f"checkpoint: {args.loadcheck} loaded, {saved['tasks_done']} tasks done")
    return int(saved["tasks_done"])
