"""BundleExporter: exports the backbone at the end of a run, or after each task."""

import shlex
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import torch

from mammoth_compiled.config.schema import RunConfig
from mammoth_compiled.console import say
from mammoth_compiled.data import TaskLoader
from mammoth_compiled.device import random_state, set_random_state
from mammoth_compiled.engine.checkpoint_files import folder_of
from mammoth_compiled.engine.observer import Observer, Run
from mammoth_compiled.engine.resume import save
from mammoth_compiled.errors import ExportError, MammothError
from mammoth_compiled.export import export_bundle, update_bundle
from mammoth_compiled.export.bundle.directory import check_target
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.bundle.summary import report
from mammoth_compiled.export.formats import FORMATS, format_names
from mammoth_compiled.export.variants.convert import variant_names
from mammoth_compiled.files import check_writable, lock
from mammoth_compiled.types import Evaluation

CALIBRATION_IMAGES = 256


class BundleExporter(Observer):
    """Exports the backbone; if that fails in the end, a checkpoint keeps the weights.

    If it fails after an earlier task, for instance on a full disk, training continues.

    Args:
        path: Directory of the bundle.
        formats: Comma-separated formats; None for the default ones.
        variants: Comma-separated smaller ONNX models: fp16, int8.
        each_task: True to export after the first task and update the weights after later ones.

    Raises:
        ExportError: If the directory contains other files or cannot be written, a format or a
            variant is unknown, or a package that a format needs is missing.
    """

    ORDER: ClassVar[int] = 80
    COMMAND_LINE_ONLY: ClassVar[bool] = True

    @classmethod
    def from_config(cls, config: RunConfig) -> Observer | None:
        """Returns one for `--export`."""
        files = config.files
        if not files.export:
            return None
        folder = folder_of(config) or Path()
        path = files.export.replace("{out}", str(folder))
        return cls(path, files.formats, files.export_variants, files.export_each_task)

    def __init__(
        self,
        path: str | Path,
        formats: str | None = None,
        variants: str | None = None,
        each_task: bool = False,
    ) -> None:
        self.path = Path(path)
        check_target(self.path)
        check_writable(self.path.parent / f".{self.path.name}.manifest.json")
        self.formats = format_names(formats)
        for name in self.formats:
            FORMATS[name].check_installed()
        self.variants = variant_names(variants)
        self.each_task = each_task
        self._exported = False
        self._is_current = False
        self._locked = ExitStack()

    def begin_run(self, run: Run) -> None:
        """Locks the directory.

        Raises:
            MammothError: If another run exports to it.
        """
        self._locked.enter_context(lock(self.path, "a bundle", "--export"))

    def close(self, run: Run) -> None:
        """Releases the lock."""
        self._locked.close()

    def end_task(self, run: Run, evaluation: Evaluation) -> None:
        """Exports or updates the bundle, if it is kept up to date after each task.

        If that fails it prints why; the next task, or the end of the run, tries again.
        """
        if not self.each_task:
            return
        started = time.perf_counter()
        action = "updated" if self._exported else "exported"
        self._is_current = False
        try:
            manifest = read_manifest(self._export(run))
        except MammothError as error:
            say(f"bundle after task {run.task + 1}: not {action}: {error}")
            return
        self._is_current = True
        models = [file for file in manifest.files if file.is_model]
        worst = max((d.size for file in models for d in file.parity.values()), default=0.0)
        accuracy = next((f.accuracy["class_il"] for f in models if "class_il" in f.accuracy), None)
        say(
            f"bundle after task {run.task + 1}: {action} in "
            f"{time.perf_counter() - started:.1f} s, {len(models)} models, "
            f"{len(manifest.info.classes_seen)} of {manifest.info.num_classes} classes seen, "
            f"max error {worst:.1e}" + ("" if accuracy is None else f", Class-IL {accuracy:.2%}")
        )

    def end_run(self, run: Run) -> None:
        """Exports the bundle unless that was done after each task; prints what it contains.

        Also the command that shows it in a browser, which runs its ONNX file.

        Raises:
            ExportError: If that fails; names the checkpoint with the weights.
        """
        if run.results.interrupted:
            return
        path = self.path.resolve() if self._is_current else self._export_or_save(run)
        say(report(path))
        if any(file.format == "onnx" for file in read_manifest(path).models):
            shown = shlex.quote(str(self.path))
            say(f"browser   python -m mammoth_compiled.export open {shown}")

    def _export_or_save(self, run: Run) -> Path:
        """Exports the bundle; if that fails, saves the weights in a checkpoint."""
        try:
            return self._export(run)
        except MammothError as error:
            try:
                kept = save(run).path
            except MammothError as second:
                raise ExportError(f"{error}. Nor can the weights be saved: {second}") from error
            raise ExportError(
                f"{error}. The weights are saved in {kept}; once the cause is fixed: "
                f"python -m mammoth_compiled.export {kept} {self.path}"
            ) from error

    def _export(self, run: Run) -> Path:
        evidence: dict[str, Any] = {
            "samples": next(iter(run.dataset.test_loaders[0]))[0][:32].cpu(),
            "calibration": (lambda: _training_images(run)) if "int8" in self.variants else None,
            "test_set": lambda: _test_set(run),
        }
        if self._exported:
            return update_bundle(self.path, run.model, **evidence)
        path = export_bundle(
            run.model, self.path, formats=self.formats, variants=self.variants, **evidence
        )
        self._exported = True
        return path


def _training_images(run: Run) -> torch.Tensor:
    """Returns images of all classes seen, [N, C, H, W]; leaves the random state unchanged."""
    before = random_state()
    train, _ = run.dataset.load_splits()
    loader = TaskLoader(train, run.config.experiment.batch_size, True, run.model.device, 0)
    seen = torch.tensor(run.dataset.info().classes_seen, device=run.model.device)
    images: list[torch.Tensor] = []
    for inputs, labels, *_ in loader:
        images.append(inputs[torch.isin(labels, seen)].cpu())
        if sum(map(len, images)) >= CALIBRATION_IMAGES:
            break
    set_random_state(before)
    return torch.cat(images)


def _test_set(run: Run) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the test images of all tasks seen, [N, C, H, W], and their class ids, [N]."""
    batches = [batch for loader in run.dataset.test_loaders for batch in loader]
    return (
        torch.cat([inputs.cpu() for inputs, *_ in batches]),
        torch.cat([labels.cpu() for _, labels, *_ in batches]),
    )
