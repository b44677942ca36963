"""Batched crop and flip against slicing one image after the other."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mammoth_compiled.kernels.augment import crop_flip


def sliced(images, top, left, flip, size, padding, fill):
    """The specification, with NumPy and a loop."""
    before_w, after_w, before_h, after_h = padding
    result = []
    for image, t, x, mirrored in zip(images.numpy(), top, left, flip, strict=True):
        sides = ((0, 0), (before_h, after_h), (before_w, after_w))
        padded = np.pad(image, sides, constant_values=fill)
        crop = padded[:, t : t + size[0], x : x + size[1]]
        result.append(crop[:, :, ::-1] if mirrored else crop)
    return torch.from_numpy(np.stack(result))


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    padding = tuple(draw(st.integers(0, 3)) for _ in range(4))
    padded = height + padding[2] + padding[3], width + padding[0] + padding[1]
    size = draw(st.integers(1, padded[0])), draw(st.integers(1, padded[1]))
    batch, channels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    images = torch.randint(0, 256, (batch, channels, height, width), dtype=torch.uint8)
    dtype = draw(st.sampled_from([torch.uint8, torch.float32, torch.int64]))

    def numbers(below):
        return torch.tensor([draw(st.integers(0, below)) for _ in range(batch)])

    return (
        images.to(dtype),
        numbers(padded[0] - size[0]),
        numbers(padded[1] - size[1]),
        numbers(1).bool(),
        size,
        padding,
        draw(st.sampled_from([0, 7])),
    )


@settings(max_examples=150)
@given(cases())
def test_equals_slicing(case):
    images, top, left, flip, size, padding, fill = case
    result = crop_flip(images, top, left, flip, size, padding, fill)
    assert result.dtype == images.dtype
    assert torch.equal(result, sliced(images, top, left, flip, size, padding, fill))


def test_leaves_its_input_alone():
    images = torch.rand(3, 2, 5, 4)
    before = images.clone()
    zeros = torch.zeros(3, dtype=torch.int64)
    crop_flip(images, zeros, zeros, zeros == 0, (5, 4), (1, 1, 1, 1))
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", ["channels_last", "strided"])
def test_any_memory_layout(layout):
    images = torch.rand(3, 2, 5, 6)
    odd = (
        images.to(memory_format=torch.channels_last)
        if layout == "channels_last"
        else images.repeat_interleave(2, 3)[..., ::2]
    )
    top, left, flip = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1]), torch.tensor([1, 0, 1])
    args = (top, left, flip.bool(), (3, 4))
    assert torch.equal(crop_flip(odd, *args), crop_flip(images, *args))
