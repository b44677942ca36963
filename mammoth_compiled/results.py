"""Results: what a run measured."""

import json
import platform
from argparse import Namespace
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from mammoth_compiled.files import write_atomically
from mammoth_compiled.metrics import Matrix, average, backward_transfer, forgetting
from mammoth_compiled.types import Evaluation


@dataclass
class Results:
    """The results of a run.

    Attributes:
        config: The arguments of the run.
        class_il: Row t has the accuracies in [0, 1] after task t on each task seen, with
            predictions among all classes seen.
        task_il: The same with predictions among the task's own classes.
        loss: Mean test loss after each task, nats.
        train_s: Training time of each task in seconds, including compilation.
        compile_s: The part of it spent on tracing and compilation.
        eval_s: Evaluation time after each task in seconds.
        train_images: Images trained on in each task, counted once per epoch.
        notes: Decisions and counters of the run: `compile`, `compiler`, `step`.
        interrupted: True if the user interrupted the run.
    """

    config: dict[str, Any] = field(default_factory=dict)
    class_il: Matrix = field(default_factory=list)
    task_il: Matrix = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    train_s: list[float] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    eval_s: list[float] = field(default_factory=list)
    train_images: list[int] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def add(
        self,
        evaluation: Evaluation,
        *,
        train_s: float,
        eval_s: float,
        images: int,
        compile_s: float = 0.0,
    ) -> None:
        """Appends the measurements of one task."""
        self.class_il.append(evaluation.class_il)
        self.task_il.append(evaluation.task_il)
        self.loss.append(evaluation.loss)
        self.train_s.append(train_s)
        self.compile_s.append(compile_s)
        self.eval_s.append(eval_s)
        self.train_images.append(images)

    @property
    def accuracy(self) -> dict[str, float]:
        """Final average accuracy in [0, 1], `class_il` and `task_il`; NaN before the first task."""
        nothing: Matrix = [[]]
        return {
            "class_il": average((self.class_il or nothing)[-1]),
            "task_il": average((self.task_il or nothing)[-1]),
        }

    @property
    def images_per_second(self) -> float:
        """Images trained on per second, not counting compilation time."""
        seconds = sum(self.train_s) - sum(self.compile_s)
        return sum(self.train_images) / seconds if seconds else float("nan")

    def summary(self) -> dict[str, Any]:
        """Returns the figures that runs are compared by."""
        return {
            "class_il": self.accuracy["class_il"],
            "task_il": self.accuracy["task_il"],
            "forgetting_class_il": forgetting(self.class_il),
            "forgetting_task_il": forgetting(self.task_il),
            "backward_transfer_class_il": backward_transfer(self.class_il),
            "backward_transfer_task_il": backward_transfer(self.task_il),
            "train_s": sum(self.train_s),
            "compile_s": sum(self.compile_s),
            "eval_s": sum(self.eval_s),
            "images_per_s": self.images_per_second,
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements as plain data, for a checkpoint."""
        measured = (f.name for f in fields(self) if f.name not in ("config", "interrupted"))
        return {name: getattr(self, name) for name in measured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)

    def table(self) -> str:
        """Returns the accuracies as a table, one row per task, in percent."""
        tasks = max((len(row) for row in self.class_il), default=0)
        head = ["after", *(f"task {j + 1}" for j in range(tasks)), "Class-IL", "Task-IL"]
        lines = ["".join(f"{cell:>10}" for cell in head)]
        for t, (class_row, task_row) in enumerate(zip(self.class_il, self.task_il, strict=True)):
            after = f"task {t + 1}" if len(self.class_il) > 1 else "training"
            cells = [f"{100 * a:.2f}" for a in class_row] + [""] * (tasks - len(class_row))
            cells += [f"{100 * average(class_row):.2f}", f"{100 * average(task_row):.2f}"]
            lines.append("".join(f"{cell:>10}" for cell in [after, *cells]))
        forgotten = forgetting(self.class_il)
        if forgotten is not None:
            lines.append(f"forgetting (Class-IL): {100 * forgotten:.2f}")
        return "\n".join(lines)

    def write_json(self, path: str | Path) -> None:
        """Writes everything to a JSON file, atomically.

        Raises:
            MammothError: If the file cannot be written.
        """
        content = {
            "schema": 1,
            "config": self.config,
            "summary": self.summary(),
            **self.state_dict(),
            "interrupted": self.interrupted,
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "hardware": hardware(),
        }
        text = json.dumps(_finite(content), indent=2, allow_nan=False)
        write_atomically(Path(path), (text + "\n").encode())


def _finite(value: Any) -> Any:
    """Returns the value with None instead of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return None
    return value


def hardware() -> dict[str, Any]:
    """Returns the hardware that the speed of a run depends on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
    }


def plain_arguments(args: Namespace) -> dict[str, Any]:
    """Returns the arguments that JSON and checkpoints can represent."""
    return {name: value for name, value in vars(args).items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    return value is None or isinstance(value, (bool, int, float, str))
