"""Loads a bundle: a callable that answers like the backbone it was exported from."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.formats import RUNTIMES, runtime_name
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.bundle.manifest import File, Manifest, check_file, read_manifest
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.export.parity.compare import Difference, Run
from mammoth_compiled.types import DatasetInfo, ReturnTypes


@dataclass(frozen=True)
class _State:
    """One version of a bundle, opened."""

    manifest: Manifest
    runs: Mapping[ReturnTypes, Run]
    parity: Mapping[str, Difference]


class Bundle:
    """An exported backbone, run without its code; see `load_bundle`.

    A call from several threads at once is safe, also while another one reloads.

    Attributes:
        path: The directory.
        returnt: What a call gives if it does not say.
        supports: The return types it answers.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device,
        returnt: ReturnTypes | None,
        runtime: str,
        precision: str,
    ) -> None:
        self.path = path
        self.returnt = returnt or ReturnTypes.OUT
        self._device, self._fixed = device, returnt
        self._runtime, self._precision = runtime, precision
        self._state = self._open(read_manifest(path))

    @property
    def manifest(self) -> Manifest:
        """All that the bundle says of itself."""
        return self._state.manifest

    @property
    def info(self) -> DatasetInfo:
        """The data the backbone was trained on; `name` is empty where nothing is known of it."""
        return self.manifest.info

    @property
    def interface(self) -> Interface:
        """What goes in and comes out."""
        return self.manifest.interface

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.interface.input_shape

    @property
    def supports(self) -> tuple[ReturnTypes, ...]:
        """The return types it answers: all of the bundle, or the one it was loaded for."""
        return tuple(self._state.runs)

    @property
    def widths(self) -> dict[str, int]:
        """Name to K or F of `out` and `features`."""
        shapes = self.interface.outputs
        return {name: shape[0] for name, shape in shapes.items() if len(shape) == 1}

    @property
    def classes_seen(self) -> tuple[int, ...]:
        """Class ids the weights were trained on, in the order they came."""
        return self.info.classes_seen

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per column of `out`; empty where not known."""
        return self.info.class_names

    @property
    def parity(self) -> Mapping[str, Difference]:
        """Output name to the largest difference from eager that was measured at export."""
        return self._state.parity

    def __call__(
        self, x: torch.Tensor | np.ndarray, returnt: ReturnTypes | str | None = None
    ) -> Any:
        """Computes what `returnt` asks for.

        Args:
            x: Images as the backbone takes them, normalised (see `preprocess`), float32
                [B, C, H, W]; pixels, uint8 [B, H, W, C], where the bundle normalises by itself.
            returnt: `out`, `features`, `both` or `full`; by default what the bundle was loaded
                for, `out` if nothing.

        Returns:
            Logits [B, K], features [B, F], the tuple of both, or (logits, list of stage maps):
            float32 tensors without gradient, on the device of `x`.

        Raises:
            ValueError: If `returnt` is unknown; lists the valid ones.
            ExportError: If the bundle lacks what it asks for, or `x` has another shape or type.
        """
        returnt = self.returnt if returnt is None else ReturnTypes(returnt)
        state = self._state  # of one version, whatever is reloaded meanwhile
        if returnt not in state.runs:
            raise ExportError(
                f"this bundle has no {str(returnt)!r}; it has: "
                f"{', '.join(repr(str(r)) for r in state.runs)}"
                + (" (it was loaded for that alone)" if self._fixed else ""),
                "contract",
            )
        device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
        values = state.runs[returnt](_check(x, state.manifest.interface))
        outputs = [values[name].to(device) for name in state.manifest.interface.entries[returnt]]
        if returnt == ReturnTypes.FULL:
            return outputs[0], outputs[1:]
        return tuple(outputs) if returnt == ReturnTypes.BOTH else outputs[0]

    def preprocess(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Turns images as they are stored into what the bundle takes.

        Scales them to [0, 1], subtracts the mean and divides by the standard deviation of the
        training data, channel by channel. Does not resize.

        Args:
            images: uint8 [B, C, H, W] or [B, H, W, C].

        Returns:
            float32 [B, C, H, W] on the CPU; uint8 [B, H, W, C] where the bundle normalises by
            itself.

        Raises:
            ExportError: If shape or type differ, or nothing is known of the training data.
        """
        if not self.info.mean:
            raise ExportError(
                "this bundle does not say how its images were normalised. Give export_bundle an "
                "info=DatasetInfo(...)"
            )
        pixels = torch.as_tensor(images, device="cpu")
        channels, height, width = self.input_shape
        if pixels.dtype != torch.uint8:
            raise ExportError(
                f"images must be uint8, values 0 to 255, not {pixels.dtype}", "contract"
            )
        if pixels.dim() == 4 and pixels.shape[1:] == (height, width, channels):
            # A shape that fits both ways is taken as [B, C, H, W], torch's own order.
            if pixels.shape[1:] != (channels, height, width):
                pixels = pixels.permute(0, 3, 1, 2)
        elif pixels.dim() != 4 or pixels.shape[1:] != (channels, height, width):
            raise ExportError(
                f"images must have shape [B, {channels}, {height}, {width}] or "
                f"[B, {height}, {width}, {channels}], not {list(pixels.shape)}",
                "contract",
            )
        if self.interface.pixels:
            return pixels.permute(0, 2, 3, 1).contiguous()
        result = pixels.contiguous().to(torch.float32) * SCALE
        return (result - _per_channel(self.info.mean)) / _per_channel(self.info.std)

    def reload(self) -> bool:
        """Opens the bundle anew if it was changed on disk, as `update_bundle` does.

        The old version answers until the new one is open, and goes on if that fails.

        Returns:
            Whether there was a new version.

        Raises:
            ExportError: If the new version cannot be opened.
        """
        manifest = read_manifest(self.path)
        if manifest == self._state.manifest:
            return False
        self._state = self._open(manifest)
        return True

    def __repr__(self) -> str:
        supports = ", ".join(str(returnt) for returnt in self.supports)
        return f"Bundle({str(self.path)!r}, input {list(self.input_shape)}, supports {supports})"

    def _open(self, manifest: Manifest) -> _State:
        """Checks and opens the files that are needed, each once."""
        entries = manifest.interface.entries
        if self._fixed is not None and self._fixed not in entries:
            raise ExportError(
                f"the bundle {self.path} has no {str(self._fixed)!r}; it has: "
                f"{', '.join(repr(str(r)) for r in entries)}",
                "contract",
            )
        wanted = [self._fixed] if self._fixed else list(entries)
        files = [
            file
            for file in manifest.files
            if file.format == self._runtime and file.precision == self._precision
        ]
        # One file for all that may be asked; the smallest that will do if that is known.
        choose = min if self._fixed else max
        opened: dict[tuple[str, tuple[str, ...]], Run] = {}
        runs: dict[ReturnTypes, Run] = {}
        parity: dict[str, Difference] = {}
        for returnt in wanted:
            choices = [
                (file, outputs)
                for file in files
                for outputs in RUNTIMES[self._runtime].selections(file)
                if set(entries[returnt]) <= set(outputs)
            ]
            if not choices:
                raise ExportError(self._lacks(manifest), "missing")
            file, outputs = choose(choices, key=lambda choice: len(choice[1]))
            if (file.path, outputs) not in opened:
                opened[file.path, outputs] = self._open_file(file, outputs)
            runs[returnt] = opened[file.path, outputs]
            parity |= {name: file.parity[name] for name in outputs if name in file.parity}
        return _State(manifest, runs, parity)

    def _open_file(self, file: File, outputs: Sequence[str]) -> Run:
        path = check_file(self.path, file)
        return RUNTIMES[self._runtime].open_file(path, file, outputs, self._device)

    def _lacks(self, manifest: Manifest) -> str:
        has = sorted(
            {f"{file.format} ({file.precision})" for file in manifest.files if file.is_model}
        )
        return (
            f"the bundle {self.path} has no file for runtime {self._runtime!r} in "
            f"{self._precision}; it has: {', '.join(has) or 'no model'}. Export with --formats "
            f"{self._runtime}"
        )


def load_bundle(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    returnt: ReturnTypes | str | None = None,
    runtime: str = "onnx",
    precision: str = "fp32",
) -> Bundle:
    """Loads what `export_bundle` wrote; needs the runtime, not the backbone's code.

    Args:
        path: The directory of the bundle, or the .onnx file in it.
        device: Where it runs: `cpu`, `cuda` or `cuda:1`.
        returnt: What it will be asked for; then only that is computed, from a smaller file where
            there is one. None computes all.
        runtime: `onnx` (ONNX Runtime), `aoti` (AOTInductor), `pt2` (torch.export) or `torchscript`.
        precision: `fp32`, or a variant that was exported: `fp16`, `int8`.

    Raises:
        ValueError: If `returnt` is unknown; lists the valid ones.
        ExportError: If there is no bundle, it is damaged, was written by a later version or for
            another machine, lacks what is asked for, or the runtime is not installed or does not
            really use `device`; its `code` says which.

    Example:
        >>> from mammoth_compiled import export_bundle
        >>> from mammoth_compiled.backbones.cnn import CNN
        >>> path = export_bundle(CNN(10), "exported/cnn", input_shape=(3, 32, 32), formats="onnx")
        >>> bundle = load_bundle(path, returnt="features")
        >>> bundle(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 4096])
    """
    folder = Path(path)
    if folder.suffix == ".onnx" and not folder.is_dir():
        folder = folder.parent
    return Bundle(
        folder,
        parse_device(device),
        None if returnt is None else ReturnTypes(returnt),
        runtime_name(runtime),
        precision,
    )


def parse_device(device: str | torch.device) -> torch.device:
    """Returns a device that bundles can run on.

    Raises:
        ExportError: If it is unknown or of another kind.
    """
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise ExportError(
            f"unknown device {device!r}; valid: 'cpu', 'cuda', 'cuda:0'", "backend"
        ) from error
    if place.type not in ("cpu", "cuda"):
        raise ExportError(
            f"no bundle runs on device {str(place)!r}; valid: 'cpu', 'cuda'", "backend"
        )
    return place


def _check(x: torch.Tensor | np.ndarray, interface: Interface) -> torch.Tensor:
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        raise ExportError(
            f"x must be a torch tensor or a numpy array, not {type(x).__name__}", "contract"
        )
    shape, dtype = interface.item_shape, _name(x.dtype)
    if dtype != _name(interface.dtype) or x.ndim != 4 or tuple(x.shape[1:]) != shape:
        hint = ""
        if tuple(x.shape) == shape:
            hint = ". A single image needs a batch axis: x[None]"
        elif dtype == "uint8":
            hint = ". bundle.preprocess(images) turns uint8 images into it"
        raise ExportError(
            f"x must be {_name(interface.dtype)} [B, {', '.join(map(str, shape))}], but is "
            f"{dtype} {list(x.shape)}{hint}",
            "contract",
        )
    if isinstance(x, torch.Tensor):
        return x.detach()
    # torch shares no memory that is read-only or runs backwards.
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def _name(dtype: torch.dtype | np.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)
