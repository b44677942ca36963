"""load_bundle: loads a bundle as a callable that answers like the exported backbone."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle import inputs
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.bundle.notebook import bundle_html
from mammoth_compiled.export.bundle.opened import BundleOpener
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.formats import runtime_name
from mammoth_compiled.export.parity.compare import Difference
from mammoth_compiled.types import DatasetInfo, ReturnTypes


class Bundle:
    """An exported backbone that runs without its original code; see `load_bundle`.

    Several threads may call it at once, also while another one reloads it.

    Args:
        opener: Opens the bundle's files.

    Attributes:
        path: The directory.
        returnt: The default return type of a call.
    """

    def __init__(self, opener: BundleOpener) -> None:
        self.path = opener.path
        self.returnt = opener.returnt or ReturnTypes.OUT
        self._opener = opener
        self._opened = opener.open()

    @property
    def manifest(self) -> Manifest:
        """The bundle's description of itself."""
        return self._opened.manifest

    @property
    def info(self) -> DatasetInfo:
        """The data the backbone was trained on; `name` is empty if the data is unknown."""
        return self.manifest.info

    @property
    def interface(self) -> Interface:
        """Names, dtypes and shapes of the input and the outputs."""
        return self.manifest.interface

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.interface.input_shape

    @property
    def supports(self) -> tuple[ReturnTypes, ...]:
        """Supported return types, all of the bundle, or the one it was loaded for."""
        return tuple(self._opened.runs)

    @property
    def classes_seen(self) -> tuple[int, ...]:
        """Ids of the classes that the weights were trained on, in the order of training."""
        return self.info.classes_seen

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per column of `out`; empty if unknown."""
        return self.info.class_names

    @property
    def parity(self) -> Mapping[str, Difference]:
        """Output name to the largest difference from eager mode, measured at export."""
        return self._opened.parity

    def __call__(
        self, x: torch.Tensor | np.ndarray, returnt: ReturnTypes | str | None = None
    ) -> Any:
        """Computes the outputs of a return type.

        Args:
            x: Images as the backbone takes them, normalized (see `preprocess`), float32
                [B, C, H, W]; or pixels, uint8 [B, H, W, C], if the bundle normalizes them itself.
            returnt: `out`, `features`, `both` or `full`; default: the return type that the bundle
                was loaded for, else `out`.

        Returns:
            Logits [B, K], features [B, F], the tuple of both, or (logits, list of stage maps):
            float32 tensors without gradient, on the device of `x`.

        Raises:
            ValueError: If `returnt` is unknown; lists the valid ones.
            ExportError: If the bundle does not support `returnt`, or `x` has another shape or
                dtype.
        """
        returnt = self.returnt if returnt is None else ReturnTypes(returnt)
        opened = self._opened  # read once, as another thread may reload
        if returnt not in opened.runs:
            raise ExportError(
                f"this bundle has no {str(returnt)!r}; it has: "
                f"{', '.join(repr(str(r)) for r in opened.runs)}"
                + (" (it was loaded for that alone)" if self._opener.returnt else ""),
                "contract",
            )
        interface = opened.manifest.interface
        device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
        images = inputs.check_input(x, interface)
        values = opened.runs[returnt](images)
        names = interface.entries[returnt]
        for name in names:
            expected = (len(images), *interface.outputs[name])
            if name not in values or values[name].shape != expected:
                raise ExportError(
                    f"the model in {self.path} does not give {name!r} of shape {list(expected)}, "
                    "as its manifest says. It is damaged: export again",
                    "damaged",
                )
        outputs = [values[name].to(device) for name in names]
        if returnt == ReturnTypes.FULL:
            return outputs[0], outputs[1:]
        return tuple(outputs) if returnt == ReturnTypes.BOTH else outputs[0]

    def preprocess(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Turns stored images into the input of the bundle.

        Scales pixels to [0, 1], then subtracts the mean and divides by the standard deviation of
        the training data, per channel. Does not resize.

        Args:
            images: uint8 [B, C, H, W] or [B, H, W, C].

        Returns:
            float32 [B, C, H, W] on the CPU; uint8 [B, H, W, C] if the bundle normalizes pixels
            itself.

        Raises:
            ExportError: If shape or dtype differ, or the training data is unknown.
        """
        return inputs.preprocess(images, self.interface, self.info, self.manifest.scale)

    def reload(self) -> bool:
        """Opens the bundle again if it changed on disk, as after `update_bundle`.

        Calls use the old version until the new one is open, and keep using it if that fails.

        Returns:
            Whether there was a new version.

        Raises:
            ExportError: If the new version cannot be opened.
        """
        if read_manifest(self.path) == self.manifest:
            return False
        self._opened = self._opener.open()
        return True

    def _repr_html_(self) -> str:
        """Returns the contract and the model files, for notebooks."""
        return bundle_html(self.manifest, str(self.path))

    def __repr__(self) -> str:
        supports = ", ".join(str(returnt) for returnt in self.supports)
        return f"Bundle({str(self.path)!r}, input {list(self.input_shape)}, supports {supports})"


def load_bundle(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    returnt: ReturnTypes | str | None = None,
    runtime: str = "onnx",
    precision: str = "fp32",
) -> Bundle:
    """Loads a bundle that `export_bundle` wrote; needs the runtime, but not the backbone's code.

    Args:
        path: The directory of the bundle, or the .onnx file in it.
        device: Where it runs: `cpu`, `cuda` or `cuda:1`.
        returnt: The only return type to compute, from a smaller file if there is one. None loads
            all of them.
        runtime: `onnx` (ONNX Runtime), `aoti` (AOTInductor), `pt2` (torch.export) or `torchscript`.
        precision: `fp32`, or an exported variant: `fp16`, `int8`.

    Raises:
        ValueError: If `returnt` is unknown; lists the valid ones.
        ExportError: If there is no bundle; it is damaged, of a later version or for another
            machine; it lacks what is requested; or the runtime is not installed or does not use
            `device`. Its `code` says which.

    Example:
        >>> from mammoth_compiled import export_bundle
        >>> from mammoth_compiled.backbones.cnn import CNN
        >>> path = export_bundle(CNN(10), "exported/cnn", input_shape=(3, 32, 32), formats="onnx")
        >>> bundle = load_bundle(path, returnt="features")
        >>> bundle(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 4096])
    """
    directory = Path(path)
    if directory.suffix == ".onnx" and not directory.is_dir():
        directory = directory.parent
    return Bundle(
        BundleOpener(
            directory,
            parse_device(device),
            None if returnt is None else ReturnTypes(returnt),
            runtime_name(runtime),
            precision,
        )
    )


def parse_device(device: str | torch.device) -> torch.device:
    """Returns a device that bundles can run on.

    Raises:
        ExportError: If the device is unknown or of another kind.
    """
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ExportError(
            f"unknown device {device!r}; valid: 'cpu', 'cuda', 'cuda:0'", "backend"
        ) from error
    if parsed.type not in ("cpu", "cuda"):
        raise ExportError(
            f"bundles do not run on device {str(parsed)!r}; valid: 'cpu', 'cuda'", "backend"
        )
    return parsed
