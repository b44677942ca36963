"""Attention written out: every spelling is replaced, lookalikes are left alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.kernels.attention import op

B, H, N, D = 2, 2, 6, 4


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch):
    """Lets the pattern replace short sequences, which are faster unfused."""
    monkeypatch.setattr(op, "MIN_CPU_TOKENS", 2)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Attention(nn.Module):
    def __init__(self, formula):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(D, D) for _ in range(3))
        self.softmax = nn.Softmax(dim=-1)
        self.formula = formula

    def forward(self, x):
        return self.formula(self, self.query(x), self.key(x), self.value(x))


def replaced(formula, x):
    """Compares values and gradients of the rewritten graph with eager; returns the matches."""
    net = Attention(formula)
    other = copy.deepcopy(net)
    matches = []

    def backend(graph, _):
        matches.extend(m for m in apply_patterns(graph.graph) if m.pattern == "attention")
        graph.recompile()
        return graph

    result = torch.compile(net, backend=backend, fullgraph=True)(x)
    expected = other(x)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
    result.square().sum().backward()
    expected.square().sum().backward()
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-5)
    return matches


def replaced_after_export(exported, formula, x):
    """Compares values of the rewritten exported graph with eager; returns the matches."""
    net = Attention(formula)
    module = exported(net, x)
    matches = [m for m in apply_patterns(module.graph) if m.pattern == "attention"]
    module.recompile()
    with torch.no_grad():
        torch.testing.assert_close(module(x), net(x), rtol=1e-5, atol=1e-6)
    return matches


SCALE = D**-0.5
SPELLINGS = {
    "bmm": lambda m, q, k, v: torch.bmm(
        torch.softmax(torch.bmm(q, k.transpose(1, 2)) * SCALE, dim=-1), v
    ),
    "no scale": lambda m, q, k, v: torch.softmax(q @ k.transpose(-2, -1), -1) @ v,
    "operators": lambda m, q, k, v: F.softmax(SCALE * (q @ k.mT), dim=-1) @ v,
    "divided": lambda m, q, k, v: (q @ k.transpose(-1, -2) / D**0.5).softmax(-1) @ v,
    "scaled twice": lambda m, q, k, v: F.softmax((q @ k.mT * 3) / 2, dim=-1) @ v,
    "in place": lambda m, q, k, v: torch.matmul(
        torch.matmul(q, k.mT).mul_(SCALE).softmax(dim=-1), v
    ),
    "div method": lambda m, q, k, v: q.matmul(k.mT).div(2.0).softmax(-1).matmul(v),
    "scaled query": lambda m, q, k, v: ((q * SCALE) @ k.mT).softmax(-1) @ v,
    "module": lambda m, q, k, v: m.softmax(q @ k.permute(0, 2, 1) * SCALE) @ v,
    "counted dimension": lambda m, q, k, v: torch.softmax(q @ k.swapaxes(1, 2), 2) @ v,
    "einsum": lambda m, q, k, v: torch.einsum(
        "bqk,bkd->bqd", torch.einsum("bqd,bkd->bqk", q, k).mul(SCALE).softmax(-1), v
    ),
    "einsum with transposed keys": lambda m, q, k, v: torch.einsum(
        "bij, bjd -> bid", torch.einsum("bid,bdj->bij", q, k.mT).softmax(-1), v
    ),
    "keys transposed by hand": lambda m, q, k, v: torch.bmm(
        torch.bmm(q, k.mT.contiguous()).softmax(-1), v
    ),
    "negative scale": lambda m, q, k, v: (q @ k.mT * -0.5).softmax(-1) @ v,
    "fewer keys than queries": lambda m, q, k, v: (q @ k[:, :3].mT).softmax(-1) @ v[:, :3],
    "dropout of nothing": lambda m, q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.0) @ v,
    "dropout in eval mode": lambda m, q, k, v: (
        F.dropout(F.dropout((q @ k.mT).softmax(-1), 0.3, training=False), p=0.0) @ v
    ),
    "used afterwards": lambda m, q, k, v: (lambda y: y + y.mean())((q @ k.mT).softmax(-1) @ v),
}
HEADS = {
    "four dimensions": lambda m, q, k, v: (q @ k.transpose(2, 3) * SCALE).softmax(-1) @ v,
    "four, permuted": lambda m, q, k, v: (q @ k.permute(0, 1, 3, 2)).softmax(3) @ v,
    "four, einsum": lambda m, q, k, v: torch.einsum(
        "bhqk,bhkd->bhqd", torch.einsum("bhqd,bhkd->bhqk", q, k).softmax(-1), v
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_replaced(spelling):
    matches = replaced(SPELLINGS[spelling], torch.randn(B, N, D))
    assert [match.reason for match in matches] == [""]


@pytest.mark.parametrize("spelling", HEADS)
def test_several_heads(spelling):
    matches = replaced(HEADS[spelling], torch.randn(B, H, N, D))
    assert [match.reason for match in matches] == [""]


@pytest.mark.parametrize("spelling", [*SPELLINGS, *HEADS])
def test_every_spelling_is_replaced_after_export(exported, spelling):
    formula = {**SPELLINGS, **HEADS}[spelling]
    x = torch.randn(B, H, N, D) if spelling in HEADS else torch.randn(B, N, D)
    matches = replaced_after_export(exported, formula, x)
    assert [match.reason for match in matches] == [""]


# Graphs that resemble attention but compute something else or do not support the fused form.
LEFT_ALONE = {
    "softmax over the queries": lambda m, q, k, v: (q @ k.mT).softmax(1) @ v,
    "masked": lambda m, q, k, v: (q @ k.mT + torch.ones(N, N).tril()).softmax(-1) @ v,
    "masked between views": lambda m, q, k, v: (
        ((q @ k.mT + 1.0).view(1, B, N, N) + torch.ones(N, N).tril()).view(B, N, N).softmax(-1) @ v
    ),
    "weights used": lambda m, q, k, v: (lambda w: w @ v + w.mean())((q @ k.mT).softmax(-1)),
    "scores used": lambda m, q, k, v: (lambda s: s.softmax(-1) @ v + s.mean())(q @ k.mT),
    "scores changed in place": lambda m, q, k, v: (lambda s: (s.mul_(2.0), s.softmax(-1) @ v)[1])(
        q @ k.mT
    ),
    "scaled by a tensor": lambda m, q, k, v: (q @ k.mT * m.query.bias.sum()).softmax(-1) @ v,
    "divided into": lambda m, q, k, v: (2.0 / (q @ k.mT)).softmax(-1) @ v,
    "log softmax": lambda m, q, k, v: (q @ k.mT).log_softmax(-1) @ v,
    "another type": lambda m, q, k, v: (q @ k.mT).softmax(-1, dtype=torch.float64) @ v.double(),
    "another type by position": lambda m, q, k, v: (
        torch.softmax(q @ k.mT, -1, torch.float64) @ v.double()
    ),
    "narrower values": lambda m, q, k, v: (q @ k.mT).softmax(-1) @ v[..., :2],
    "one batch of keys": lambda m, q, k, v: (q @ k[0].mT).softmax(-1) @ v,
    "keys shared by the batch": lambda m, q, k, v: (q @ k[:1].mT).softmax(-1) @ v,
    "one product": lambda m, q, k, v: q @ v.mT,
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_lookalikes_compute_the_same(name):
    matches = replaced(LEFT_ALONE[name], torch.randn(B, N, D))
    assert all(match.reason for match in matches)


# torch.export tracks the mutated value, so that there this is a factor like any other.
@pytest.mark.parametrize("name", [n for n in LEFT_ALONE if n != "scores changed in place"])
def test_lookalikes_are_left_alone_after_export(exported, name):
    x = torch.randn(B, N, D)
    matches = replaced_after_export(exported, LEFT_ALONE[name], x)
    reasons = [match.reason for match in replaced(LEFT_ALONE[name], x)]
    assert [match.reason for match in matches] == reasons
    assert all(reasons)


def test_scores_changed_in_place_are_scaled_after_export(exported):
    formula = LEFT_ALONE["scores changed in place"]
    (match,) = replaced_after_export(exported, formula, torch.randn(B, N, D))
    assert match.reason == ""


@pytest.mark.parametrize("name", ["masked", "masked between views"])
def test_masks_are_named(name):
    (match,) = replaced(LEFT_ALONE[name], torch.randn(B, N, D))
    assert match.reason == "a bias or mask is added to its scores"


def test_dropout_is_left_alone():
    net, matches = Attention(lambda m, q, k, v: F.dropout((q @ k.mT).softmax(-1), 0.5) @ v), []

    def backend(graph, _):
        matches.extend(apply_patterns(graph.graph))
        return graph

    torch.compile(net, backend=backend, fullgraph=True)(torch.randn(B, N, D))
    assert matches == []


@pytest.mark.parametrize("method", ["mT", "transpose"])
def test_transposed_values_compute_the_same(method):
    def formula(m, q, k, v):
        values = v[:, :D].mT if method == "mT" else v[:, :D].transpose(1, 2)
        return (q @ k[:, :D].mT).softmax(-1) @ values

    replaced(formula, torch.randn(B, N, D))


def test_keys_shared_by_heads_compute_the_same():
    # Multi-query attention: one key and value head for all query heads.
    replaced(lambda m, q, k, v: (q @ k[:, :1].mT).softmax(-1) @ v, torch.randn(B, H, N, D))
    replaced(lambda m, q, k, v: (q @ k[:, :1].mT).softmax(-1) @ v[:, :1], torch.randn(B, H, N, D))


def test_short_sequences_are_left_alone(monkeypatch):
    monkeypatch.setattr(op, "MIN_CPU_TOKENS", N + 1)
    (match,) = replaced(SPELLINGS["bmm"], torch.randn(B, N, D))
    assert "the fused form is not faster on a CPU" in match.reason


def test_under_autocast():
    net = Attention(SPELLINGS["bmm"])
    matches = []

    def backend(graph, _):
        matches.extend(apply_patterns(graph.graph))
        graph.recompile()
        return graph

    x = torch.randn(B, N, D)
    with torch.autocast("cpu", torch.bfloat16):
        expected = net(x)
        result = torch.compile(net, backend=backend)(x)
    assert [match.reason for match in matches] == [""]
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected, rtol=3e-2, atol=3e-2)
