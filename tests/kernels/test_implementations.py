"""Implementations and cases of every operation in `kernels/`."""

import importlib

import pytest
import torch
from hardware import DEVICE

from mammoth_compiled.kernels.attention import projections
from mammoth_compiled.kernels.attention.cases import AttentionCase, ProjectionCase
from mammoth_compiled.kernels.conv_relu_pool.cases import ConvReluPoolCase
from mammoth_compiled.kernels.discovery import (
    launch_cases,
    op_names,
    triton_op_names,
    tuning_cases,
)
from mammoth_compiled.kernels.runtime.cases import Work, training_step
from mammoth_compiled.kernels.runtime.implementations import Implementation, capable, usable

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("op", op_names())
def test_list_ends_with_plain_torch(op):
    implementations = importlib.import_module(f"mammoth_compiled.kernels.{op}").IMPLEMENTATIONS
    names = [implementation.name for implementation in implementations]
    assert len(set(names)) == len(names)
    assert names[-1] in ("torch", "reference")
    assert not implementations[-1].device_type
    assert all(implementation.description for implementation in implementations)


@pytest.mark.usefixtures("triton_kernels")
@pytest.mark.parametrize("op", triton_op_names())
def test_launch_cases_have_distinct_names(op):
    names = [case.name for case in launch_cases(op)]
    assert len(set(names)) == len(names) > 0


def test_usable_skips_other_devices_and_slow_ones_and_keeps_the_order():
    implementations = (
        Implementation("gpu", "", print, "cuda"),
        Implementation("incapable", "", print, why_not=lambda x: f"{x} is too large"),
        Implementation("slow", "", print, why_slow=lambda x: f"{x} is slow"),
        Implementation("fast", "", print, "cpu"),
        Implementation("torch", "", print),
    )
    found, reasons = usable(implementations, CPU, 3)
    assert [i.name for i in found] == ["fast", "torch"]
    assert reasons == ["3 is too large", "3 is slow"]
    assert [i.name for i in usable(implementations, CUDA, 3)[0]] == ["gpu", "torch"]
    assert [i.name for i in capable(implementations, CPU, 3)] == ["slow", "fast", "torch"]


def test_why_not_is_not_asked_where_why_slow_answers():
    # It may have to build the C++ library.
    unwanted = Implementation("cpp", "", print, "cpu", lambda: pytest.fail("asked"), lambda: "slow")
    assert usable([unwanted], CPU) == ([], ["slow"])


CASES = [
    ConvReluPoolCase(torch.float32, 2, 3, 8, 6, 16, needs_input_grad=False),
    ConvReluPoolCase(torch.float32, 3, 20, 7, 6, 24, channels_last_weight=True),
    ConvReluPoolCase(torch.float32, 2, 8, 6, 6, 4, bias=False, channels_last_images=False),
    ConvReluPoolCase(torch.float32, 2, 8, 6, 6, 4, train=False),
    AttentionCase(torch.float32, 2, 3, 20, 24, 8),
    AttentionCase(torch.float32, 2, 1, 20, 20, 16, train=False),
    ProjectionCase(torch.float32, 2, 64, 8, (8, 16, 8)),
    ProjectionCase(torch.float32, 2, 64, 8, (8, 8), bias=False, train=False),
]


@pytest.fixture
def strict_convolutions():
    """In TF32 the argmax of a window, and with it the gradient, could be another pixel."""
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op} {case}")
def test_contenders_of_a_case_agree(case, strict_convolutions):
    inputs = case.make_inputs(DEVICE)
    contenders = case.contenders(inputs)
    assert "torch" in contenders
    expected = contenders["torch"](*inputs)
    grad = torch.randn_like(expected) if isinstance(expected, torch.Tensor) else None
    for function in contenders.values():
        result = function(*inputs)
        torch.testing.assert_close(result, expected, rtol=1e-2, atol=1e-2)
        leaves = [t for t in inputs if t is not None and t.requires_grad]
        assert bool(leaves) == case.train
        if leaves and grad is not None:
            ours, theirs = (
                torch.autograd.grad(f(*inputs), leaves, grad)
                for f in (function, contenders["torch"])
            )
            torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    assert set(case.make_steps(DEVICE)) == set(contenders)


def test_joint_projections_agree_with_separate_ones():
    # On a CPU they are not among the contenders.
    case = ProjectionCase(torch.float64, 2, 5, 8, (8, 16, 8))
    x, *parameters = case.make_inputs(CPU)
    joint, separate = (i.function for i in projections.IMPLEMENTATIONS)
    args = x, parameters[:3], parameters[3:]
    torch.testing.assert_close(joint(*args), separate(*args))


def test_inputs_have_the_layouts_of_the_case():
    images, weight, bias = CASES[0].make_inputs(CPU)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous()
    assert [t.requires_grad for t in (images, weight, bias)] == [False, True, True]
    images, weight, _ = CASES[1].make_inputs(CPU)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert images.requires_grad
    images, _, bias = CASES[2].make_inputs(CPU)
    assert images.is_contiguous()
    assert bias is None


def test_training_step_runs_forward_and_backward():
    x = torch.ones(3, requires_grad=True)
    step = training_step(lambda x, bias: x * 2, (x, None))
    (first,), (second,) = step(), step()
    assert torch.equal(first, second)  # the gradient that goes in is drawn once
    assert first.any()
    (of_two_results,) = training_step(lambda x: (x, x + 1), (x,))()
    assert of_two_results.shape == (3,)
    assert torch.equal(training_step(lambda x: x * 2, (x.detach(),))(), torch.full((3,), 2.0))


def test_tuning_cases_have_distinct_keys_and_some_work():
    cases = tuning_cases()
    assert len({f"{case.op} {case}" for case in cases}) == len(cases) > 0
    assert all(case.work().num_bytes > 0 and case.work().num_flops > 0 for case in cases)
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)
