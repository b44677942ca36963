"""Copies of images between contiguous and channels-last in C++: exact, in any size."""

import pytest
import torch

from mammoth_compiled.kernels.reorder import cpp, reason_not, reorder_images_op

LAYOUTS = {False: torch.contiguous_format, True: torch.channels_last}


@pytest.mark.usefixtures("cpp_kernels")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 3, 32, 32),
        (3, 64, 8, 8),
        (2, 33, 5, 7),
        (1, 16, 4, 4),
        (2, 1, 6, 6),
        (4, 40, 1, 1),
        (0, 3, 4, 4),
    ],
)
def test_copies_are_exact(monkeypatch, with_threads, shape, channels_last):
    calls = []

    def counting(images, result, reorder=cpp.reorder):
        calls.append(images)
        reorder(images, result)

    monkeypatch.setattr(cpp, "reorder", counting)
    images = torch.randn(shape).contiguous(memory_format=LAYOUTS[not channels_last])
    for threads in (1, 2):
        result = with_threads(threads, lambda: reorder_images_op(images, channels_last))
        assert torch.equal(result, images)
        assert result.is_contiguous(memory_format=LAYOUTS[channels_last])
        assert result.data_ptr() != images.data_ptr() or not images.numel()
    assert len(calls) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_images_are_copied_by_torch(dtype):
    images = torch.randn(2, 3, 4, 5).to(dtype).transpose(2, 3)
    assert reason_not(images, channels_last=True)
    for channels_last in (True, False):
        result = reorder_images_op(images, channels_last)
        assert torch.equal(result, images)
        assert result.is_contiguous(memory_format=LAYOUTS[channels_last])
        again = reorder_images_op(result, channels_last)
        assert again.data_ptr() != result.data_ptr()


def test_fake_tensors_have_the_layout():
    images = torch.randn(2, 3, 4, 6)
    torch.library.opcheck(reorder_images_op, (images, True))
    torch.library.opcheck(reorder_images_op, (images, False))
