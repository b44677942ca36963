"""The folder of a run: its name, who may use it, and the one that a resumed run belongs to."""

import contextlib
import os
import time
import traceback
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mammoth_compiled.command_line import file_path
from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.engine.checkpoint_files import (
    CHECKPOINTS,
    differences,
    folder_of,
)
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.files import directories, portable_name
from mammoth_compiled.locks import is_temporary
from mammoth_compiled.reading import read_file
from mammoth_compiled.results import plain_arguments

__all__ = [
    "CONFIG",
    "LOG",
    "REPORT",
    "RESULTS",
    "check_folder",
    "earlier_folders",
    "folder_of",
    "new_folder",
    "read_config",
    "run_folder",
    "runs_directory",
]

# Files of the folder, besides those of the loggers and the checkpoints.
CONFIG = "config.yaml"
MAX_CONFIG = 2**20  # bytes
RESULTS = "results.json"
LOG = "log.txt"
REPORT = "report.html"


def runs_directory() -> str:
    """Returns the directory of the run folders, or "off".

    The environment variable `MAMMOTH_RUNS` sets it; the default is `runs`.

    Raises:
        ConfigError: If no directory can have this path.
    """
    try:
        return file_path(os.environ.get("MAMMOTH_RUNS") or "runs")
    except ArgumentTypeError as error:
        raise ConfigError(f"environment variable MAMMOTH_RUNS: {error}") from None


def run_name(config: RunConfig) -> str:
    """Returns the name of a run: that of its folder, or time, model, dataset, backbone and seed."""
    folder = folder_of(config)
    return _new_name(config) if folder is None else folder.name


def _new_name(config: RunConfig) -> str:
    return time.strftime("%Y%m%d-%H%M%S") + _suffix(config)


def _suffix(config: RunConfig) -> str:
    experiment = config.experiment
    seed = "" if experiment.seed is None else f"-s{experiment.seed}"
    return portable_name(f"-{experiment.model}-{experiment.dataset}-{experiment.backbone}{seed}")


@contextlib.contextmanager
def run_folder(config: RunConfig) -> Iterator[str | None]:
    """Chooses and creates the folder of a run from the command line; removes it if it stays empty.

    It is `--out`; else, with `--resume`, that of the newest run of the same configuration that has
    checkpoints; else a new one in `runs_directory()`.

    Args:
        config: All arguments.

    Yields:
        Its path, the new value of `--out`; None for no folder.

    Raises:
        MammothError: If it cannot be created or contains something else.
    """
    given = config.files.out
    if (given or runs_directory()) == "off":
        yield None
        return
    parent = Path(given).parent if given else Path(runs_directory())
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(directories(parent))
            path = Path(given) if given else _resumed_folder(config, parent)
            if path is None:
                path = new_folder(config, parent)
            check_folder(path, config)
            path.mkdir(exist_ok=True)
        except OSError as error:
            raise MammothError(
                f"cannot create the run folder {given or parent}: {error.strerror}; give "
                "--out DIR, or --out off for none"
            ) from error
        try:
            yield str(path)
        finally:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def new_folder(config: RunConfig, parent: Path) -> Path:
    """Creates a folder whose name is not in use, even if several runs start in the same second.

    Args:
        config: All arguments, which give the name.
        parent: Where to create it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    name, number = _new_name(config), 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
        number += 1


def _resumed_folder(config: RunConfig, parent: Path) -> Path | None:
    """Returns the folder that `--resume` continues."""
    if not config.files.resume:
        return None
    for path in earlier_folders(config, parent):
        saved = read_config(path)
        if saved is None or differences(config, saved):
            continue
        if saved.get("resume") or any((path / CHECKPOINTS).glob("*.pt")):
            return path
    return None


def earlier_folders(config: RunConfig, parent: Path) -> Iterator[Path]:
    """Yields the folders of runs of this model, dataset, backbone and seed, the newest first."""
    for path in sorted(parent.iterdir(), reverse=True):
        # Earlier versions kept the colon of timm:NAME.
        if _suffix(config) in portable_name(path.name):
            yield path


def read_config(folder: Path) -> dict[str, Any] | None:
    """Returns the arguments of the run in a folder; None if there is none."""
    try:
        saved = yaml.safe_load(read_file(folder / CONFIG, MAX_CONFIG).decode())
    # ValueError and TypeError: also of PyYAML, which does not check dates and keys of mappings.
    except (ValueError, TypeError, RecursionError, yaml.YAMLError):
        return None
    return saved if isinstance(saved, dict) else None


def config_text(config: RunConfig) -> str:
    """Returns the arguments of a run as YAML, in the order of the schema.

    Left out are the run folder, so that `--config` starts another run with the file, and facts of
    the dataset.
    """
    arguments = plain_arguments(config.to_namespace())
    for name in ("out", "num_classes"):
        arguments.pop(name, None)
    order = sorted(arguments, key=lambda name: name in config.extra)
    plain = {n: list(v) if isinstance(v := arguments[n], tuple) else v for n in order}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def check_folder(path: Path, config: RunConfig) -> None:
    """Checks that a run may write into a folder: a new or empty one, or the one that it resumes.

    Raises:
        MammothError: If not; says what it contains.
    """
    # A run that was killed before it wrote its configuration leaves a temporary file.
    if not path.exists() or (path.is_dir() and all(map(is_temporary, path.iterdir()))):
        return
    saved = read_config(path) if path.is_dir() else None
    if saved is None:
        what = "contains other files" if path.is_dir() else "is not a directory"
        raise MammothError(f"--out {path} {what}: give the path of a new folder")
    if config.files.loadcheck:
        return
    if not config.files.resume:
        raise MammothError(
            f"--out {path} contains a run: give the path of a new folder, or --resume to continue "
            "the run"
        )
    if changed := differences(config, saved):
        arguments = ", ".join(map(str, changed))
        raise MammothError(
            f"--out {path} contains a run of another configuration ({arguments}): give the path of "
            "a new folder"
        )


@contextlib.contextmanager
def errors_in_log(folder: Path | None) -> Iterator[None]:
    """Adds an error that ends the run to the log in its folder.

    Args:
        folder: The run folder; None for a run without one.
    """
    try:
        yield
    except Exception as error:
        if folder is not None and (folder / LOG).is_file():
            known = isinstance(error, MammothError)
            text = f"error: {error}\n" if known else traceback.format_exc()
            with contextlib.suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as log:
                log.write(text)
        raise
