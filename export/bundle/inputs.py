"""What a loaded bundle accepts: checks its input, and turns stored images into it."""

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import Interface, dtype_name
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.types import DatasetInfo


def check_input(x: torch.Tensor | np.ndarray, interface: Interface) -> torch.Tensor:
    """Returns an input as a tensor without gradient, after checking its dtype and shape.

    Raises:
        ExportError: Code `contract`; says what the bundle takes.
    """
    _check_array(x, "x")
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
        return x.detach().resolve_conj().resolve_neg()
    # Copied if needed: torch cannot share memory that is read-only or has negative strides.
    return torch.from_numpy(np.require(x, requirements=["C", "W"]))


def preprocess(
    images: torch.Tensor | np.ndarray, interface: Interface, info: DatasetInfo, scale: float = SCALE
) -> torch.Tensor:
    """Turns stored images into the input of a bundle; see `Bundle.preprocess`."""
    if not info.mean:
        raise ExportError(
            "this bundle does not say how its images were normalized. Give export_bundle an "
            "info=DatasetInfo(...)"
        )
    _check_array(images, "images")
    if dtype_name(images.dtype) != "uint8":
        raise ExportError(f"images must be uint8, values 0 to 255, not {images.dtype}", "contract")
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
    pixels = images.detach().to("cpu")
    channels, height, width = interface.input_shape
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
    scaled = pixels.contiguous().to(torch.float32) * scale
    return (scaled - _per_channel(info.mean)) / _per_channel(info.std)


def _check_array(x: object, name: str) -> None:
    """Refuses what is not an array of numbers in memory."""
    if not isinstance(x, (torch.Tensor, np.ndarray)):
        raise ExportError(
            f"{name} must be a torch tensor or a numpy array, not {type(x).__name__}", "contract"
        )
    kind = ""
    if isinstance(x, np.ma.MaskedArray):
        kind = "masked"
    elif isinstance(x, torch.Tensor):
        if x.is_nested:
            kind = "nested"
        elif x.layout != torch.strided:
            kind = str(x.layout).removeprefix("torch.").removeprefix("_")
        elif x.is_quantized:
            kind = "quantized"
        elif x.device.type not in ("cpu", "cuda"):
            kind = f"on the device {str(x.device)!r}"
        elif isinstance(x, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(x):
            kind = "without values (inside torch.export, torch.compile, vmap or grad)"
    if kind:
        raise ExportError(
            f"{name} is {kind}; accepted are numpy arrays and dense (strided) torch tensors on the "
            "CPU or a GPU. Convert it, for example with x.to_dense() or torch.stack",
            "contract",
        )


def _per_channel(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cpu").view(-1, 1, 1)
