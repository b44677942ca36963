"""Loads a bundle: a callable that answers like the backbone it was exported from."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.graph import INPUT
from mammoth_compiled.export.metadata import Metadata
from mammoth_compiled.export.session import open_session, run_session
from mammoth_compiled.export.to_onnx import FILE_NAME
from mammoth_compiled.types import DatasetInfo, ReturnTypes

if TYPE_CHECKING:
    import onnxruntime


class Bundle:
    """An exported backbone, run by ONNX Runtime; see `load_bundle`.

    Attributes:
        path: The model file.
        info: The data the backbone was trained on; `name` is empty where nothing is known of it.
        input_shape: (C, H, W) of one image.
        supports: The return types it answers.
        widths: Output name to K or F.
        classes_seen: Class ids the weights were trained on, in the order they came.
        class_names: One name per class id; empty where not known.
        parity: Output name to the largest difference from eager measured at export.
    """

    def __init__(
        self, session: "onnxruntime.InferenceSession", metadata: Metadata, path: Path
    ) -> None:
        self._session = session
        self.path = path
        self.info: DatasetInfo = metadata.info
        self.input_shape = metadata.info.input_shape
        self.supports = metadata.supports
        self.classes_seen = metadata.info.classes_seen
        self.class_names = metadata.info.class_names
        self.widths = metadata.widths
        self.parity = metadata.parity

    def __call__(
        self, x: torch.Tensor | np.ndarray, returnt: ReturnTypes | str = ReturnTypes.OUT
    ) -> Any:
        """Computes what `returnt` asks for.

        Args:
            x: Images as the backbone takes them, normalised (see `preprocess`), float32
                [B, C, H, W].
            returnt: `out`, `features` or `both`.

        Returns:
            Logits [B, K], features [B, F] or the tuple of both: float32 tensors without gradient,
            on the device of `x`.

        Raises:
            ValueError: If `returnt` is unknown; lists the valid ones.
            ExportError: If the bundle lacks what it asks for, or `x` has another shape or type.
        """
        returnt = ReturnTypes(returnt)
        if returnt not in self.supports:
            raise ExportError(
                f"this bundle has no {str(returnt)!r}; it has: "
                f"{', '.join(repr(str(r)) for r in self.supports)}"
            )
        device = x.device if isinstance(x, torch.Tensor) else torch.device("cpu")
        outputs = run_session(self._session, {INPUT: self._check(x)})
        if returnt == ReturnTypes.BOTH:
            return outputs["out"].to(device), outputs["features"].to(device)
        return outputs[returnt].to(device)

    def preprocess(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Turns images as they are stored into what the bundle takes.

        Scales them to [0, 1], subtracts the mean and divides by the standard deviation of the
        training data, channel by channel. Does not resize.

        Args:
            images: uint8 [B, C, H, W] or [B, H, W, C].

        Returns:
            float32 [B, C, H, W] on the CPU.

        Raises:
            ExportError: If shape or type differ, or nothing is known of the training data.
        """
        if not self.info.name:
            raise ExportError(
                "this bundle does not say how its images were normalised. Give export_bundle an "
                "info=DatasetInfo(...)"
            )
        pixels = torch.as_tensor(images, device="cpu")
        channels, height, width = self.input_shape
        if pixels.dtype != torch.uint8:
            raise ExportError(f"images must be uint8, values 0 to 255, not {pixels.dtype}")
        if pixels.dim() == 4 and pixels.shape[1:] == (height, width, channels):
            # A shape that fits both ways is taken as [B, C, H, W], torch's own order.
            if pixels.shape[1:] != (channels, height, width):
                pixels = pixels.permute(0, 3, 1, 2)
        elif pixels.dim() != 4 or pixels.shape[1:] != (channels, height, width):
            raise ExportError(
                f"images must have shape [B, {channels}, {height}, {width}] or "
                f"[B, {height}, {width}, {channels}], not {list(pixels.shape)}"
            )
        result = pixels.contiguous().to(torch.float32) / 255
        if self.info.mean:
            result -= _per_channel(self.info.mean)
        if self.info.std:
            result /= _per_channel(self.info.std)
        return result

    def __repr__(self) -> str:
        supports = ", ".join(str(returnt) for returnt in self.supports)
        return f"Bundle({str(self.path)!r}, input {list(self.input_shape)}, supports {supports})"

    def _check(self, x: torch.Tensor | np.ndarray) -> np.ndarray:
        if not isinstance(x, (torch.Tensor, np.ndarray)):
            raise ExportError(f"x must be a torch tensor or a numpy array, not {type(x).__name__}")
        values = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
        if values.dtype != np.float32 or values.ndim != 4 or values.shape[1:] != self.input_shape:
            hint = ""
            if values.dtype == np.uint8:
                hint = ". bundle.preprocess(images) turns uint8 images into it"
            elif values.shape == self.input_shape:
                hint = ". A single image needs a batch axis: x[None]"
            raise ExportError(
                f"x must be float32 [B, {', '.join(map(str, self.input_shape))}], but is "
                f"{values.dtype} {list(values.shape)}{hint}"
            )
        return values


def load_bundle(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Bundle:
    """Loads what `export_bundle` wrote; needs ONNX Runtime, not the backbone's code.

    Args:
        path: The directory of the bundle, or the .onnx file in it.
        device: Where it runs: `cpu`, `cuda` or `cuda:1`.

    Raises:
        ExportError: If there is no bundle, it is damaged, ONNX Runtime is not installed, or it
            does not really use `device`.

    Example:
        >>> bundle = load_bundle("exported/resnet18")
        >>> logits, features = bundle(images, returnt="both")
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    if not file.is_file():
        raise ExportError(f"no bundle at {path}: there is no file {file}")
    session = open_session(file, device)
    try:
        metadata = Metadata.from_properties(session.get_modelmeta().custom_metadata_map)
    except ExportError as error:
        raise ExportError(f"{file} cannot be loaded: {error}") from error
    return Bundle(session, metadata, file)


def _per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)
