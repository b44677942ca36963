"""Saves a run to a checkpoint and resumes it; `models.state` knows what a model contains."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from mammoth_compiled.checkpoint import pack, read_checkpoint, unpack, write_checkpoint
from mammoth_compiled.checkpoint.schema import check_checkpoint
from mammoth_compiled.device import random_state, set_random_state
from mammoth_compiled.engine.checkpoint_files import (
    checkpoint_path,
    differences,
    find_checkpoint,
)
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.core.state import load_weights, model_state, restore_model
from mammoth_compiled.registry import backbones
from mammoth_compiled.results import plain_arguments

# Their values are part of the saved optimizer and random state.
KEPT = ("seed", "optim_mom", "optim_wd", "optim_nesterov")


class SavedCheckpoint(NamedTuple):
    """A checkpoint that was written, and attributes of the model that it does not contain."""

    path: Path
    left_out: list[str]


def save(run: Run) -> SavedCheckpoint:
    """Writes a checkpoint of the run after the tasks in its results.

    Raises:
        MammothError: If the file cannot be written; no half-written file stays behind.
    """
    content = _content(run)
    return _write(checkpoint_path(run.config, content["tasks_done"]), content)


def save_within(run: Run) -> SavedCheckpoint:
    """Writes a checkpoint of the run within its current task; needs `begin_task`.

    To resume from it, the run starts the task again from the state that it began with, so that
    hooks of the model act on the dataset again, and then takes the saved position.

    Raises:
        MammothError: If the file cannot be written; no half-written file stays behind.
    """
    assert run.position is not None
    # Before anything else is saved, because it reads the pending losses.
    position = run.position.state_dict()
    content = _content(run)
    begin = torch.frombuffer(bytearray(run.task_begin), dtype=torch.uint8)
    content["within"] = {**position, "begin": begin}
    path = checkpoint_path(run.config, content["tasks_done"], position["task_step"])
    return _write(path, content)


def begin_task(run: Run) -> None:
    """Keeps the state that a task begins with, if checkpoints within it are wanted."""
    if run.saves_within:
        run.task_begin = pack(_content(run))


def _content(run: Run) -> dict[str, Any]:
    args = run.config.to_namespace()
    names = [p.name for p in backbones[args.backbone].parameters]
    state = model_state(run.model)
    for group in state["optimizer"].get("param_groups", []):
        if isinstance(group.get("lr"), torch.Tensor):  # only while a task is trained on a GPU
            group["lr"] = float(group["lr"])
    return {
        "net": run.model.net.state_dict(),
        "backbone": {
            "name": args.backbone,
            "arguments": {name: vars(args)[name] for name in names if name in args},
        },
        "data": run.dataset.info().to_dict() if run.dataset.test_loaders else {},
        "model": {"name": args.model, "state": state},
        "compute": run.compute.state_dict(),
        "random": random_state(),
        "args": plain_arguments(args),
        "results": run.results.state_dict(),
        "tasks_done": len(run.results.class_il),
    }


def _write(path: Path, content: dict[str, Any]) -> SavedCheckpoint:
    return SavedCheckpoint(write_checkpoint(path, content), content["model"]["state"]["left_out"])


def resume(run: Run) -> None:
    """Restores a run from the checkpoint that `--loadcheck` or `--resume` asks for, if any.

    Sets `run.first_task`, `run.resume_within`, and `run.resume_messages` to what is worth telling.

    Raises:
        CheckpointError: If the file of `--loadcheck` cannot be read, or if the checkpoint is of
            another kind of run.
    """
    files = run.config.files
    if files.loadcheck:
        _restore(run, Path(files.loadcheck), read_checkpoint(files.loadcheck))
    elif files.resume:
        found, run.resume_messages, run.other_checkpoints = find_checkpoint(run.config)
        if found is not None:
            _restore(run, *found)


def _restore(run: Run, path: Path, saved: dict[str, Any]) -> None:
    _check_same_kind(run, path, saved)
    if "within" in saved:
        if run.config.training.inference_only:
            raise CheckpointError(
                f"{path} was saved within a task, but --inference_only evaluates finished tasks: "
                "use a checkpoint whose name has no step"
            )
        steps, task = saved["within"]["task_step"], saved["tasks_done"] + 1
        run.resume_messages.append(f"continues task {task} after {steps:,} steps")
        # Later, `TaskPosition` restores the rest.
        run.resume_within = saved
        saved = _begin_of_task(path, saved)
    for difference in differences(run.config, saved["args"]):
        if difference.name in KEPT:
            message = f"keeps --{difference.name} {difference.saved}, not {difference.now}"
            run.resume_messages.append(message)
        elif difference.name != "lr":  # the learning rate may have been changed by user code
            run.resume_messages.append(str(difference))
    try:
        load_weights(run.model.net, saved["net"])
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not fit backbone {run.config.experiment.backbone!r} as built here: "
            f"{error}"
        ) from error
    # The decision to compile may have been made after the task began.
    compute = (run.resume_within or saved)["compute"]
    # Evaluation needs the loaders of finished tasks.
    for _ in range(saved["tasks_done"]):
        run.dataset.meta_get_data_loaders()
    restore_model(run.model, saved["model"]["state"])
    run.results.load_state_dict((run.resume_within or saved)["results"])
    run.compute.load_state_dict(compute, run.config.compute.compile)
    run.results.notes["compile"] = run.compute.compile
    set_random_state(saved["random"])
    run.first_task = run.task = int(saved["tasks_done"])
    run.resumed_from = path


def _begin_of_task(path: Path, saved: dict[str, Any]) -> dict[str, Any]:
    """Returns the checkpoint of the beginning of the task from one within it."""
    try:
        begin: dict[str, Any] = unpack(saved["within"]["begin"].numpy().tobytes())
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(f"{path} is not a valid checkpoint: within.begin: {error}") from error
    # The images of a dataset without SIZE are known only later.
    begin["data"] = saved["data"]
    try:
        check_checkpoint(begin)
    except CheckpointError as error:
        raise CheckpointError(f"{path} is not a valid checkpoint: {error}") from error
    return begin


def _check_same_kind(run: Run, path: Path, saved: dict[str, Any]) -> None:
    args = vars(run.config.to_namespace())
    before = {
        "model": saved["model"]["name"],
        "dataset": saved["data"]["name"],
        "backbone": saved["backbone"]["name"],
        **{name: saved["args"][name] for name in ("joint", "optimizer") if name in saved["args"]},
        **run.dataset.determined_by(saved["args"]),
    }
    for kind, was in before.items():
        now = args.get(kind, was)
        if was != now:
            raise CheckpointError(
                f"{path} is from {kind} {was!r}, this run has {now!r}: {_remedy(kind, was)}"
            )
    if saved["tasks_done"] > run.num_tasks:
        raise CheckpointError(
            f"{path} has {saved['tasks_done']} tasks, the run only {run.num_tasks}: use the "
            "dataset, --n_tasks and --stop_after of the run that saved it"
        )
    dataset = run.dataset
    now = {
        "num_classes": dataset.N_CLASSES,
        "tasks": [list(dataset.get_offsets(task)) for task in range(dataset.N_TASKS)],
    }
    for name, value in now.items():
        was = saved["data"][name]
        if was != value:
            raise CheckpointError(
                f"{path} is from a {dataset.NAME!r} with {name} {was}, this run has {value}: give "
                "the dataset the arguments that it had"
            )


def _remedy(name: str, value: Any) -> str:
    """Returns how to give an argument the value that it had."""
    if value is None:
        return f"leave --{name} out"
    return f"use --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
