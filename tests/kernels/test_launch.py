"""Recorded launches of Triton kernels."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mammoth_compiled.kernels.runtime.launch import record_launches

pytestmark = pytest.mark.usefixtures("triton_kernels")


def launch():
    from mammoth_compiled.kernels.relu_pool import triton

    z = torch.empty(2, 8, 4, 4, device="meta").contiguous(memory_format=torch.channels_last)
    return triton.forward(z, (2, 2), (2, 2), (0, 0))


def kernels(launches):
    return [launch.config.kernel for launch in launches]


def test_launches_are_recorded_instead_of_run():
    with record_launches() as launches:
        y, argmax = launch()
    assert y.shape == argmax.shape == (2, 8, 2, 2)
    assert kernels(launches) == ["relu_pool.forward"]
    assert launches[0].grid == (1, 1)
    assert launches[0].constants["KH"] == 2


def test_recording_includes_other_threads():
    # On CUDA autograd runs the backward in a thread of its own.
    with ThreadPoolExecutor(1) as backward_thread, record_launches() as launches:
        launch()
        backward_thread.submit(launch).result()
    assert kernels(launches) == ["relu_pool.forward"] * 2


def test_inner_recording_does_not_leak_into_the_outer():
    with record_launches() as outer:
        with record_launches() as inner:
            launch()
        launch()
    assert (len(outer), len(inner)) == (1, 1)
