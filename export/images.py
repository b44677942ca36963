"""Reads images from NumPy files, for the command line."""

from pathlib import Path

import numpy as np
import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.types import DatasetInfo


def read_images(path: str | Path, info: DatasetInfo) -> torch.Tensor:
    """Returns the images of a file, normalised.

    Args:
        path: A .npy file: uint8 [N, H, W, C], values 0 to 255, or what is normalised already,
            float32 [N, C, H, W].
        info: How the training data was normalised.

    Returns:
        float32 [N, C, H, W] from pixels, else what is in the file.

    Raises:
        ExportError: If the file holds no array, or pixels and it is not known how to normalise
            them.
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
            f"{path} holds pixels, and it is not known how the training data was normalised. Give "
            "normalised images, float32 [N, C, H, W]"
        )
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (info.mean, info.std))
    return (images.permute(0, 3, 1, 2).to(torch.float32) * SCALE - mean) / std
