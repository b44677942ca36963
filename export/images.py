"""Reads images from NumPy files for the command line."""

from pathlib import Path

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.types import DatasetInfo


def read_images(path: str | Path, info: DatasetInfo) -> torch.Tensor:
    """Reads images from a file and normalizes them if they are pixels.

    Args:
        path: A .npy file: pixels, uint8 [N, H, W, C], or normalized images, float32 [N, C, H, W].
        info: Mean and standard deviation of the training data.

    Returns:
        Normalized images, float32 [N, C, H, W]. Arrays other than uint8 are returned unchanged.

    Raises:
        ExportError: If the file holds no array, pixels of another shape, or pixels without known
            normalization.
    """
    try:
        images = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ExportError(
            f"{path} cannot be read as a NumPy file of images ({error}). Write one with "
            "np.save(path, images)"
        ) from error
    if images.dtype != torch.uint8:
        return images
    channels, height, width = info.input_shape
    if images.shape[1:] != (height, width, channels):
        raise ExportError(
            f"the pixels in {path} must be uint8 [N, {height}, {width}, {channels}], not "
            f"{list(images.shape)}"
        )
    if not info.mean:
        raise ExportError(
            f"{path} holds pixels, and the normalization of the training data is unknown. Give "
            "normalized images, float32 [N, C, H, W]"
        )
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    return (images.permute(0, 3, 1, 2).to(torch.float32) * SCALE - mean) / std
