"""The typed configuration of a run: every argument with its type, default and help text.

The command line and the reference documentation are generated from these classes, so an argument
is added in one place: as a field here.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from mammoth_compiled.config.argument import argument as _argument
from mammoth_compiled.config.protocol import ProtocolConfig
from mammoth_compiled.config.training import TrainingConfig
from mammoth_compiled.config.values import (
    comma_list,
    file_name,
    file_path,
    fraction,
    free_text,
    interval,
    non_empty,
    non_negative_float,
    non_negative_int,
    positive_float,
    positive_int,
    seed_int,
)


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """What to train, on what, and for how long."""

    model: str = _argument("", "Continual-learning method.", non_empty, "NAME", required=True)
    dataset: str = _argument("", "Dataset, a sequence of tasks.", non_empty, "NAME", required=True)
    backbone: str | None = _argument(
        None, "Network architecture (default: chosen by the dataset).", non_empty, "NAME"
    )
    batch_size: int = _argument(
        32, "Training batch size (default: best known, else 32).", positive_int, "N"
    )
    n_epochs: int = _argument(
        1, "Epochs per task (default: best known, else 1).", positive_int, "N"
    )
    joint: bool = _argument(False, "Train on all tasks jointly (upper bound).")
    seed: int | None = _argument(
        None, "Seed for all random number generators (default: unseeded).", seed_int, "N"
    )
    debug_mode: bool = _argument(False, "Stop every epoch after 6 batches.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its learning rate schedule."""

    optimizer: Literal["sgd", "adam", "adamw"] = _argument("sgd", "Optimizer.")
    lr: float = _argument(
        0.03, "Learning rate (default: best known, else 0.03).", positive_float, "LR"
    )
    optim_wd: float = _argument(0.0, "Weight decay.", non_negative_float, "WD")
    optim_mom: float = _argument(0.0, "SGD momentum.", fraction, "M")
    optim_nesterov: bool = _argument(False, "Use Nesterov momentum; requires --optim_mom.")
    clip_grad: float | None = _argument(
        None, "Clip the gradient norm to this value (default: no clipping).", positive_float, "NORM"
    )
    lr_scheduler: Literal["none", "cosine", "multistep"] = _argument(
        "none", "Learning rate schedule within a task; every task restarts at --lr."
    )
    lr_milestones: Sequence[int] | None = _argument(
        None, "Epochs at which multistep decays the learning rate.", positive_int, "EPOCH"
    )
    lr_gamma: float = _argument(
        0.1, "Multistep's learning rate decay factor.", positive_float, "GAMMA"
    )
    scheduler_mode: Literal["epoch", "iter"] = _argument(
        "epoch", "Change the learning rate after each epoch or step; milestones then count steps."
    )


@dataclass(frozen=True, kw_only=True)
class ComputeConfig:
    """Device, precision and compilation."""

    device: str | None = _argument(
        None, "Device: cpu, cuda or cuda:N (default: the first GPU, else cpu).", non_empty
    )
    compile: Literal["auto", "on", "off"] = _argument(
        "auto", "Compile the backbone; auto: always on a GPU, where it pays off on a CPU."
    )
    cuda_graph: Literal["auto", "off"] = _argument(
        "auto", "Capture the training step as a CUDA graph where possible."
    )
    whole_step: bool = _argument(
        False,
        "Compile forward, loss and backward of a training step as one graph where possible.",
    )
    amp: Literal["off", "bf16", "fp16"] = _argument(
        "off", "Automatic mixed precision for the backbone."
    )
    precision: Literal["auto", "highest", "high"] = _argument(
        "auto",
        "Precision of float32 multiplications on a GPU; high: TF32, highest: float32, auto: high.",
    )
    deterministic: bool = _argument(
        False, "Use deterministic algorithms only, so that the same seed gives the same bits."
    )
    sync_batchnorm: bool = _argument(
        False, "With torchrun: batch norm over the images of all processes, in eager mode."
    )
    num_workers: int | None = _argument(
        None,
        "DataLoader workers, used only when the dataset cannot be read from memory.",
        non_negative_int,
        "N",
    )


@dataclass(frozen=True, kw_only=True)
class FilesConfig:
    """Where to read data and write checkpoints, exports and results."""

    out: str | None = _argument(
        None,
        "Folder of the run: configuration, results, metrics, log, report, checkpoints; of several "
        "runs, the directory of their folders; off: none (default: "
        "runs/TIME-MODEL-DATASET-BACKBONE-sSEED from the command line, none from Python).",
        file_path,
        "DIR",
    )
    data_dir: str | None = _argument(
        None, "Directory to read or download datasets (default: ./data).", file_path, "DIR"
    )
    savecheck: Literal["task", "last"] | None = _argument(
        None, "Save a checkpoint after every task, or after the last one."
    )
    checkpoint_path: str | None = _argument(
        None,
        "Directory to write checkpoints (default: checkpoints in the run folder, without one "
        "./data/checkpoints).",
        file_path,
        "DIR",
    )
    checkpoint_every: str | None = _argument(
        None,
        "Save checkpoints within tasks, too, every N steps (500), minutes (10m) or hours (2h), and "
        "on SIGINT, SIGTERM and SIGHUP; implies --savecheck task.",
        interval,
        "N",
    )
    ckpt_name: str | None = _argument(
        None,
        "Name of the checkpoints, before _taskN.pt (default: model, dataset, backbone and seed).",
        file_name,
        "NAME",
    )
    loadcheck: str | None = _argument(None, "Resume from this checkpoint.", file_path, "PATH")
    resume: bool = _argument(
        False,
        "Resume from the newest valid checkpoint of this configuration, if there is one; implies "
        "--savecheck task.",
    )
    export: str | None = _argument(
        None,
        "Export the trained backbone to this directory; without DIR to bundle in the run folder.",
        file_path,
        "DIR",
        bare="{out}/bundle",
    )
    formats: str | None = _argument(
        None,
        "Comma-separated export formats (default: onnx,pt2,safetensors); python -m "
        "mammoth_compiled.export export --help lists them.",
        comma_list,
        "LIST",
    )
    export_variants: str | None = _argument(
        None,
        "Comma-separated smaller ONNX models to export as well: fp16, int8.",
        comma_list,
        "LIST",
    )
    export_each_task: bool = _argument(
        False, "Export after the first task and update the bundle's weights after every later one."
    )
    results_path: str | None = _argument(
        None, "Write the results to this JSON file.", file_path, "PATH"
    )


@dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """What to print and to log."""

    log: str | None = _argument(
        None,
        "Comma-separated loggers: csv, jsonl, tensorboard, wandb (default: csv in the run folder).",
        comma_list,
        "LIST",
    )
    log_dir: str | None = _argument(
        None,
        "Directory of the loggers, with one folder per run (default: the run folder).",
        file_path,
        "DIR",
    )
    log_every: int | None = _argument(
        None,
        "Training steps between two logged losses (default: one second).",
        positive_int,
        "N",
    )
    nowand: bool = _argument(False, "Do not log to Weights & Biases, even if --log asks for it.")
    quiet: bool = _argument(False, "Print the final table only.")
    notes: str | None = _argument(None, "Free text to keep with the results.", free_text, "TEXT")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """All arguments of a run, read-only.

    `ContinualModel.args` is the same as a flat `argparse.Namespace`.

    Attributes:
        experiment: What to train, on what, and for how long.
        protocol: How the stream of tasks is made from the dataset.
        training: How long each task is trained, and when the model is evaluated.
        optimizer: The optimizer and its learning rate schedule.
        compute: Device, precision and compilation.
        files: Where to read and write.
        logging: What to print and to log.
        extra: The arguments that the model, the dataset and the backbone define, by name.
    """

    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    files: FilesConfig = field(default_factory=FilesConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_namespace(cls, args: Namespace) -> Self:
        """Builds the configuration from a flat namespace, which may be partial.

        Arguments that are missing or None take their defaults. Names that no section defines go
        to `extra`.
        """
        values = dict(vars(args))
        sections = {}
        for name, section in SECTIONS.items():
            given = {f.name: values.pop(f.name, None) for f in fields(section)}
            sections[name] = section(**{k: v for k, v in given.items() if v is not None})
        return cls(**sections, extra=values)

    def to_namespace(self) -> Namespace:
        """Returns all arguments, `extra` included, as a flat namespace."""
        values = dict(self.extra)
        for name in SECTIONS:
            values |= asdict(getattr(self, name))
        return Namespace(**values)


SECTIONS: Mapping[str, Any] = {
    "experiment": ExperimentConfig,
    "protocol": ProtocolConfig,
    "training": TrainingConfig,
    "optimizer": OptimizerConfig,
    "compute": ComputeConfig,
    "files": FilesConfig,
    "logging": LoggingConfig,
}


def _document(section: Any) -> None:
    """Adds the help text of every field to the docstring of its class."""
    lines = [f"        {field.name}: {field.metadata['help']}" for field in fields(section)]
    section.__doc__ = "\n".join([section.__doc__, "", "    Attributes:", *lines, "    "])


for _section in SECTIONS.values():
    _document(_section)
