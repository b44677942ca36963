"""Saves a run to a checkpoint and resumes it; `models.state` knows what a model contains."""

from pathlib import Path
from typing import Any, NamedTuple

from mammoth_compiled.checkpoint import read_checkpoint, write_checkpoint
from mammoth_compiled.device import random_state, set_random_state
from mammoth_compiled.engine.checkpoint_files import (
    checkpoint_path,
    differences,
    find_checkpoint,
)
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.state import load_weights, model_state, restore_model
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
    args = run.config.to_namespace()
    num_done = len(run.results.class_il)
    names = [p.name for p in backbones[args.backbone].parameters]
    state = model_state(run.model)
    content = {
        "net": run.model.net.state_dict(),
        "backbone": {
            "name": args.backbone,
            "arguments": {name: vars(args)[name] for name in names if name in args},
        },
        "data": run.dataset.info().to_dict(),
        "model": {"name": args.model, "state": state},
        "compute": run.compute.state_dict(),
        "random": random_state(),
        "args": plain_arguments(args),
        "results": run.results.state_dict(),
        "tasks_done": num_done,
    }
    return SavedCheckpoint(
        write_checkpoint(checkpoint_path(run.config, num_done), content), state["left_out"]
    )


def resume(run: Run) -> None:
    """Restores a run from the checkpoint that `--loadcheck` or `--resume` asks for, if any.

    Sets `run.first_task`, and `run.resume_messages` to what is worth telling.

    Raises:
        CheckpointError: If the file of `--loadcheck` cannot be read, or if the checkpoint is of
            another kind of run.
    """
    files = run.config.files
    if files.loadcheck:
        _restore(run, Path(files.loadcheck), read_checkpoint(files.loadcheck))
    elif files.resume:
        found, run.resume_messages = find_checkpoint(run.config)
        if found is not None:
            _restore(run, *found)


def _restore(run: Run, path: Path, saved: dict[str, Any]) -> None:
    _check_same_kind(run, path, saved)
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
    # Evaluation needs the loaders of finished tasks.
    for _ in range(saved["tasks_done"]):
        run.dataset.meta_get_data_loaders()
    restore_model(run.model, saved["model"]["state"])
    run.results.load_state_dict(saved["results"])
    run.compute.load_state_dict(saved["compute"], run.config.compute.compile)
    run.results.notes["compile"] = run.compute.compile
    set_random_state(saved["random"])
    run.first_task = run.task = int(saved["tasks_done"])
    run.resumed_from = path


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
            f"{path} has {saved['tasks_done']} tasks, the run only {run.num_tasks}"
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
    if value is None or value is False:
        return f"leave --{name} out"
    return f"use --{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
