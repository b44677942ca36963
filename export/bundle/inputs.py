"""What a loaded bundle accepts: checks its input, and turns stored images into it."""

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import Interface, dtype_name
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.types import DatasetInfo


def check_input(x: torch.Tensor | np.ndarray, interface: Interface) -> torch.Tensor:
    """Returns an input as a tensor without gradient, after checking its dtype and shape.

    Raises:
        ExportError: Code `contract`; says what the bundle takes.
    """
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        raise ExportError(
            f"x must be a torch tensor or a numpy array, not {type(x).__name__}", "contract"
        )
    shape, dtype = interface.item_shape, dtype_name(x.dtype)
    if dtype != dtype_name(interface.dtype) or x.ndim != 4 or tuple(x.shape[1:]) != shape:
        hint = ""
        if tuple(x.shape) == shape:
            hint = ". A single image needs a batch axis: x[None]"
        elif dtype == "uint8":
            hint = ". bundle.preprocess(images) turns uint8 images into it"
        raise ExportError(
            f"x must be {dtype_name(interface.dtype)} [B, {', '.join(map(str, shape))}], but is "
            f"{dtype} {list(x.shape)}{hint}",
            "contract",
        )
    if isinstance(x, torch.Tensor):
        return x.detach()
    # Copied if needed: torch cannot share memory that is read-only or has negative strides.
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def preprocess(
    images: torch.Tensor | np.ndarray, interface: Interface, info: DatasetInfo
) -> torch.Tensor:
    """Turns stored images into the input of a bundle; see `Bundle.preprocess`."""
    if not info.mean:
        raise ExportError(
            "this bundle does not say how its images were normalized. Give export_bundle an "
            "info=DatasetInfo(...)"
        )
    pixels = torch.as_tensor(images, device="cpu")
    channels, height, width = interface.input_shape
    if pixels.dtype != torch.uint8:
        raise ExportError(f"images must be uint8, values 0 to 255, not {pixels.dtype}", "contract")
    if pixels.dim() == 4 and pixels.shape[1:] == (height, width, channels):
        # If both layouts fit, the images are taken as [B, C, H, W], torch's own layout.
        if pixels.shape[1:] != (channels, height, width):
            pixels = pixels.permute(0, 3, 1, 2)
    elif pixels.dim() != 4 or pixels.shape[1:] != (channels, height, width):
        raise ExportError(
            f"images must have shape [B, {channels}, {height}, {width}] or "
            f"[B, {height}, {width}, {channels}], not {list(pixels.shape)}",
            "contract",
        )
    if interface.pixels:
        return pixels.permute(0, 2, 3, 1).contiguous()
    scaled = pixels.contiguous().to(torch.float32) * SCALE
    return (scaled - _per_channel(info.mean)) / _per_channel(info.std)


def _per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)
