"""Patterns of attention and its projections on a fake GPU."""

import pytest
import torch
from fake_gpu import (
    Attention,
    Heads,
    assert_same_results,
    bmm,
    einsum,
    operators,
    rewritten,
)


@pytest.mark.parametrize("products", [bmm, operators, einsum])
@pytest.mark.parametrize(("winner", "name"), [("triton", "attention"), ("sdpa", "sdpa")])
def test_attention_in_three_spellings(gpu, products, winner, name):
    gpu.winners["attention"] = winner
    matches, found = assert_same_results(Attention(products), torch.rand(2, 7, 8))
    assert found == {name: 1}
    assert (matches[0].pattern, matches[0].reason) == ("attention", "")
    assert "heads=1 queries=7 keys=7 size=8" in gpu.cases[0]


def test_attention_with_heads_of_other_keys(gpu):
    query, key, value = (torch.rand(2, 3, n, 8) for n in (5, 9, 9))

    def cross(x):
        return torch.softmax(x @ key.transpose(-2, -1) * 8**-0.5, -1) @ value

    result, _, found = rewritten(cross, query)
    assert found == {"attention": 1}
    assert "heads=3 queries=5 keys=9" in gpu.cases[0]
    torch.testing.assert_close(result, cross(query))


def test_attention_in_strict_float32_is_tuned_apart(gpu):
    gpu.winners["attention"] = "sdpa"
    assert_same_results(Attention(bmm), torch.rand(2, 7, 8))
    gpu.precision = "ieee"
    _, found = assert_same_results(Attention(bmm), torch.rand(2, 7, 8))
    tf32, strict = (case for case in gpu.cases if "heads" in case)
    assert strict != tf32
    assert found == {"sdpa": 1}


def test_attention_stays_where_torch_is_faster(gpu):
    gpu.winners["attention"] = "torch"
    matches, found = assert_same_results(Attention(bmm), torch.rand(2, 7, 8))
    assert found == {}
    assert matches[0].reason == "torch's own kernels were measured to be faster"


def test_projections_of_the_same_tokens_become_one_multiplication(gpu):
    matches, found = assert_same_results(Attention(bmm), torch.rand(2, 64, 8))
    assert [(match.pattern, match.replacement) for match in matches] == [
        ("attention", "one Triton kernel"),
        ("projections", "one product"),
    ]
    assert found == {"attention": 1, "projections": 1}
    assert "tokens=64 in=8 out0=8 out1=8 out2=8" in gpu.cases[1]


@pytest.mark.parametrize(
    "view", [lambda y: y.view(2, 64, 4, 2), lambda y: y.reshape(2, -1), lambda y: y.transpose(1, 2)]
)
def test_projections_that_are_viewed_as_heads(gpu, view):
    _, found = assert_same_results(Heads(view), torch.rand(2, 64, 8))
    assert found == {"projections": 1}


def test_unsupported_projections_report_a_reason(gpu):
    matches, found = assert_same_results(Heads(lambda y: y.view(2, -1)), torch.rand(2, 64, 8))
    assert (found, matches[0].reason) == ({}, "a view of its results needs them contiguous")
    matches, found = assert_same_results(Heads(lambda y: y.permute(2, 0, 1)), torch.rand(2, 9, 8))
    assert (found, matches[0].reason) == ({}, "it pays for 64 to 256 tokens")
    gpu.winners["projections"] = "torch"
    matches, found = assert_same_results(Heads(lambda y: y.transpose(1, 2)), torch.rand(2, 64, 8))
    assert (found, matches[0].reason) == ({}, "three products were measured to be faster")
