"""Memory layouts of images."""

import torch


def channels_last(images: torch.Tensor) -> torch.Tensor:
    """Returns the same images, [B, C, H, W], contiguous in channels-last."""
    return images.contiguous(memory_format=torch.channels_last)


def empty_images(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Returns uninitialized channels-last images, [B, C, H, W], with dtype and device of `like`.

    For results of kernels in compiled graphs. Inductor fills a `torch.empty` that is given a memory
    format, which costs a kernel launch.
    """
    batch, channels, height, width = shape
    return like.new_empty((batch, height, width, channels)).permute(0, 3, 1, 2)


def force_channels_last(images: torch.Tensor) -> torch.Tensor:
    """Returns the same images, [B, C, H, W], in channels-last even inside Inductor's code.

    Inductor makes no copy for `contiguous`; its loops would then read along the wrong dimension.
    """
    import torch._inductor.inductor_prims

    _, channels, height, width = images.shape
    strides = (height * width * channels, 1, width * channels, channels)
    result: torch.Tensor = torch.ops.prims.inductor_force_stride_order(images, strides)
    return result
