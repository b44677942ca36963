"""Images for tests of transforms, and the results of transforms on them."""

import numpy as np
import torch
from PIL import Image

from mammoth_compiled.data.transforms import batch_transform


def photos(n=4, height=37, width=29):
    """Returns smooth images with some noise, uint8, [n, height, width, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 5, 4, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(c).resize((width, height))) for c in coarse])
    return np.clip(smooth + rng.integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def transform_each(transform, images):
    """Applies a torchvision transform to each image as a PIL image."""
    return np.stack([np.asarray(transform(Image.fromarray(image))) for image in images])


def transform_batch(transform, images):
    """Applies the batched version of a transform that returns bytes."""
    result = batch_transform(transform)(torch.from_numpy(images).permute(0, 3, 1, 2))
    assert result.dtype == torch.uint8
    return result.permute(0, 2, 3, 1).numpy()
