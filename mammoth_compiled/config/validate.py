"""Checks that the arguments of a run fit each other."""

import argparse
import os
from pathlib import Path

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.config.values import file_path
from mammoth_compiled.errors import ConfigError, shorten
from mammoth_compiled.loggers import logger_classes


def validate(config: RunConfig) -> None:
    """Checks what the type of a single argument cannot.

    Raises:
        ConfigError: If two arguments contradict each other, or the device does not exist.
    """
    from mammoth_compiled.device import get_device  # imports torch, which --help does not need

    optimizer, compute, files = config.optimizer, config.compute, config.files
    _check_directories(config)
    device = get_device(compute.device)
    if compute.sync_batchnorm and compute.compile == "on":
        raise ConfigError("--sync_batchnorm runs the backbone in eager mode: give --compile off")
    if compute.amp == "fp16" and device.type == "cpu":
        raise ConfigError("--amp fp16 needs a GPU; valid on the CPU: off, bf16")
    if optimizer.optim_nesterov and not (optimizer.optimizer == "sgd" and optimizer.optim_mom > 0):
        raise ConfigError("--optim_nesterov 1 needs --optimizer sgd and --optim_mom > 0")
    if (optimizer.lr_scheduler == "multistep") != (optimizer.lr_milestones is not None):
        raise ConfigError("--lr_scheduler multistep and --lr_milestones EPOCH... go together")
    for name in ("formats", "export_variants", "export_each_task"):
        if getattr(files, name) and not files.export:
            raise ConfigError(f"--{name} needs --export DIR")
    if config.logging.log:
        logger_classes(config.logging.log)
    if files.resume and files.loadcheck:
        raise ConfigError("--resume and --loadcheck exclude each other: give one of them")
    _check_training(config)
    buffer_size = config.extra.get("buffer_size")
    minibatch_size = config.extra.get("minibatch_size")
    if buffer_size and minibatch_size and minibatch_size > buffer_size:
        raise ConfigError(f"--minibatch_size {minibatch_size} exceeds --buffer_size {buffer_size}")


def _check_training(config: RunConfig) -> None:
    """Checks how long tasks are trained, and which.

    Raises:
        ConfigError: If an argument that the mode needs is missing, or one has no effect.
    """
    training, mode = config.training, config.training.fitting_mode
    for name, needs in (("n_iters", "iters"), ("n_minutes", "time")):
        if (getattr(training, name) is not None) != (mode == needs):
            raise ConfigError(f"--fitting_mode {needs} and --{name} go together")
    if mode == "early_stopping" and config.protocol.validation is None:
        raise ConfigError(
            "--fitting_mode early_stopping needs images to evaluate on: give --validation, such as "
            "--validation 0.1"
        )
    if mode in ("time", "early_stopping") and config.optimizer.lr_scheduler == "cosine":
        raise ConfigError(
            f"--lr_scheduler cosine needs a known number of epochs, which --fitting_mode {mode} "
            "does not have: use --fitting_mode epochs or iters, or --lr_scheduler multistep"
        )
    if mode != "epochs" and config.protocol.online:
        raise ConfigError(f"--online 1 is one pass over each task: leave --fitting_mode {mode} out")
    if training.stop_after is not None and training.stop_after <= training.start_from:
        raise ConfigError(
            f"--stop_after {training.stop_after} leaves no task after --start_from "
            f"{training.start_from}: give a larger number"
        )
    if config.experiment.joint and (training.eval_future or training.start_from):
        name = "eval_future" if training.eval_future else "start_from"
        raise ConfigError(f"--{name} has no meaning in joint training, which is one task")


def _check_directories(config: RunConfig) -> None:
    """Checks that the directory of the data can exist and be read.

    Raises:
        ConfigError: If not; names the argument or the environment variable that sets it.
    """
    if config.files.data_dir is not None:
        source, text = "--data_dir", config.files.data_dir
    else:
        from mammoth_compiled.device import base_path

        source, text = "environment variable MAMMOTH_BASE_PATH", base_path()
    try:
        path = Path(file_path(text)).absolute()
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f"{source}: {error}") from None
    try:
        existing = next(part for part in (path, *path.parents) if part.exists())
    except OSError as error:
        raise ConfigError(f"{source} {shorten(text)}: {error.strerror}") from error
    if not existing.is_dir():
        raise ConfigError(f"{source} {shorten(text)}: {existing} is not a directory")
    if not os.access(existing, os.R_OK | os.X_OK):
        raise ConfigError(f"{source} {shorten(text)}: no permission to read {existing}")
