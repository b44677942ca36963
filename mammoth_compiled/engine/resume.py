"""Saves a run to a checkpoint and resumes it; `models.state` knows what a model contains."""

from pathlib import Path
from typing import NamedTuple

from mammoth_compiled.checkpoint import read_checkpoint, write_checkpoint
from mammoth_compiled.config import RunConfig
from mammoth_compiled.device import base_path, random_state, set_random_state
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.models.state import load_weights, model_state, restore_model
from mammoth_compiled.registry import backbones
from mammoth_compiled.results import plain_arguments


class SavedCheckpoint(NamedTuple):
    """A checkpoint that was written, and attributes of the model that it does not contain."""

    path: Path
    left_out: list[str]


def checkpoint_directory(config: RunConfig) -> Path:
    """Returns the directory of the checkpoints: `--checkpoint_path`, or one in `base_path()`."""
    return Path(config.files.checkpoint_path or Path(base_path()) / "checkpoints")


def checkpoint_path(config: RunConfig, num_tasks: int | None = None) -> Path:
    """Returns the path of the checkpoint after a number of tasks; None for what all have in common.

    Args:
        config: All arguments; the name contains model, dataset, backbone and seed.
        num_tasks: Number of finished tasks.
    """
    experiment = config.experiment
    seed = "" if experiment.seed is None else f"_seed{experiment.seed}"
    name = f"{experiment.model}_{experiment.dataset}_{experiment.backbone}{seed}"
    suffix = "" if num_tasks is None else f"_task{num_tasks}.pt"
    return checkpoint_directory(config) / f"{name}{suffix}"


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


def resume(run: Run, path: str) -> None:
    """Restores a run to where a checkpoint was written; sets `run.first_task`.

    Raises:
        CheckpointError: If the file cannot be read or is of another kind of run.
    """
    saved = read_checkpoint(path)
    _check_same_kind(run, path, saved)
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
    run.resumed_from = Path(path)


def _check_same_kind(run: Run, path: str, saved: dict) -> None:
    args = vars(run.config.to_namespace())
    before = {
        "model": saved["model"]["name"],
        "dataset": saved["data"]["name"],
        "backbone": saved["backbone"]["name"],
        **{name: saved["args"][name] for name in ("joint", "optimizer") if name in saved["args"]},
    }
    for kind, was in before.items():
        now = args.get(kind, was)
        if was != now:
            raise CheckpointError(
                f"{path} is from {kind} {was!r}, this run has {now!r}: use --{kind} {was}"
            )
    if saved["tasks_done"] > run.num_tasks:
        raise CheckpointError(
            f"{path} has {saved['tasks_done']} tasks, the run only {run.num_tasks}"
        )
