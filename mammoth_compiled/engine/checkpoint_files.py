"""Where the checkpoints of a run are, and which of them are of the same configuration."""

import contextlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from mammoth_compiled.checkpoint import read_checkpoint
from mammoth_compiled.config import RunConfig
from mammoth_compiled.config.schema import FilesConfig, LoggingConfig
from mammoth_compiled.device import base_path
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.files import portable_name
from mammoth_compiled.results import plain_arguments

# Arguments that change where a run computes and writes, but not what it computes.
FREE = {field.name for section in (FilesConfig, LoggingConfig) for field in fields(section)}
FREE |= {"device", "compile", "cuda_graph", "whole_step", "num_workers"}
# Nor do these change the training of the tasks in a checkpoint.
FREE |= {"stop_after", "inference_only", "eval_future", "eval_every", "eval_epochs"}

CHECKPOINTS = "checkpoints"
_KEPT = re.compile(r"_kept\d+$")


class Difference(NamedTuple):
    """An argument that has another value than in a checkpoint."""

    name: str
    saved: Any
    now: Any

    def __str__(self) -> str:
        return f"--{self.name} {self.saved} -> {self.now}"


class FoundCheckpoint(NamedTuple):
    """A checkpoint and its contents."""

    path: Path
    content: dict[str, Any]


def folder_of(config: RunConfig) -> Path | None:
    """Returns the folder of a run, `--out`; None if it has none."""
    out = config.files.out
    return None if out in (None, "off") else Path(out)


def checkpoint_directory(config: RunConfig) -> Path:
    """Returns `--checkpoint_path`, or a directory in the run folder, or in `base_path()`."""
    if config.files.checkpoint_path:
        return Path(config.files.checkpoint_path)
    return (folder_of(config) or Path(base_path())) / CHECKPOINTS


def checkpoint_path(
    config: RunConfig, num_tasks: int | None = None, num_steps: int | None = None
) -> Path:
    """Returns the path of the checkpoint after a number of tasks; None for what all have in common.

    Args:
        config: All arguments; the name is `--ckpt_name`, or contains model, dataset, backbone and
            seed.
        num_tasks: Number of finished tasks.
        num_steps: Steps of the next task, for a checkpoint within it.
    """
    name = config.files.ckpt_name or portable_name(_default_name(config))
    step = "" if num_steps is None else f"_step{num_steps}"
    suffix = "" if num_tasks is None else f"_task{num_tasks}{step}.pt"
    return checkpoint_directory(config) / f"{name}{suffix}"


def _default_name(config: RunConfig) -> str:
    experiment = config.experiment
    seed = "" if experiment.seed is None else f"_seed{experiment.seed}"
    return f"{experiment.model}_{experiment.dataset}_{experiment.backbone}{seed}"


def differences(config: RunConfig, saved: Mapping[str, Any]) -> list[Difference]:
    """Returns the arguments that differ from those of a checkpoint and change what is computed.

    Args:
        config: All arguments of this run.
        saved: The arguments in the checkpoint; one that only one side knows is skipped, and so is
            a backbone's that will be taken from the dataset.
    """
    now = plain_arguments(config.to_namespace())
    open_yet = {name for name, value in config.extra.items() if value is None}
    return [
        Difference(name, saved[name], value)
        for name, value in now.items()
        if name in saved and name not in open_yet | FREE and not _equal(saved[name], value)
    ]


def find_checkpoint(
    config: RunConfig,
) -> tuple[FoundCheckpoint | None, list[str], list[Path]]:
    """Returns the checkpoint of this configuration with the most tasks and steps done.

    Args:
        config: All arguments.

    Returns:
        The checkpoint, None if there is none; a message for each newer file that is damaged or of
        another configuration; and those of another configuration.
    """
    messages: list[str] = []
    others: list[Path] = []
    for _, path in sorted(_by_progress(config), reverse=True):
        try:
            content = read_checkpoint(path)
        except CheckpointError as error:
            messages.append(f"not used: {error}")
            continue
        changed = differences(config, content["args"])
        if not changed:
            return FoundCheckpoint(path, content), messages, others
        arguments = ", ".join(map(str, changed))
        messages.append(f"not used: {path} is of another configuration ({arguments})")
        others.append(path)
    directory = checkpoint_directory(config)
    messages.append(f"none of this configuration in {directory}: starting with task 1")
    return None, messages, others


def keep(path: Path) -> Path:
    """Renames a checkpoint, so that one of another configuration does not replace it.

    Args:
        path: The checkpoint.

    Returns:
        Its new path, under which `find_checkpoint` finds it as well.
    """
    if _KEPT.search(path.stem):
        return path
    names = (path.with_name(f"{path.stem}_kept{n}.pt") for n in itertools.count(1))
    kept = next(name for name in names if not name.exists())
    return path.rename(kept)


def remove_within(config: RunConfig, num_tasks: int, num_steps: int = 0) -> None:
    """Removes the checkpoints within tasks that are older than this one.

    Args:
        config: All arguments.
        num_tasks: Number of finished tasks.
        num_steps: Steps of the next task.
    """
    for progress, path in _by_progress(config):
        is_older = progress[1] and progress < (num_tasks, num_steps)
        if is_older and not _KEPT.search(path.stem):
            with contextlib.suppress(OSError):  # it is not needed, but does no harm either
                path.unlink()


def _by_progress(config: RunConfig) -> list[tuple[tuple[int, int], Path]]:
    """Returns the checkpoints of these names by finished tasks and steps of the next task."""
    common = checkpoint_path(config)
    if not common.parent.is_dir():
        return []
    # Earlier versions kept the colon of timm:NAME.
    names = {common.name, common.name if config.files.ckpt_name else _default_name(config)}
    either = "|".join(map(re.escape, names))
    numbered = re.compile(rf"(?:{either})_task(\d+)(?:_step(\d+))?(?:_kept\d+)?\.pt")
    matches = ((numbered.fullmatch(path.name), path) for path in common.parent.iterdir())
    return [((int(match[1]), int(match[2] or 0)), path) for match, path in matches if match]


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return list(one) == list(other)
    return bool(one == other)
