"""Attention of libraries, fused already: replaced on a GPU where the kernel is faster."""

import pytest
import torch
from fake_gpu import assert_same_results, rewritten
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.models.swin_transformer import ShiftedWindowAttention

from mammoth_compiled.compiler.patterns import apply_patterns


class Fused(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.options = options

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(2, 10, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind()
        return (
            F.scaled_dot_product_attention(q, k, v, **self.options).transpose(1, 2).reshape(x.shape)
        )


def matches_on_cpu(net, x):
    matches = []

    def backend(graph, _):
        matches.extend(apply_patterns(graph.graph))
        graph.recompile()
        return graph

    torch._dynamo.reset()
    result = torch.compile(net, backend=backend)(x)
    torch._dynamo.reset()
    torch.testing.assert_close(result, net(x))
    return [(match.pattern, match.reason) for match in matches]


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"attn_mask": None, "dropout_p": 0.0}])
def test_one_kernel_on_a_gpu(gpu, options):
    (match,), found = assert_same_results(Fused(**options), torch.randn(2, 10, 16))
    assert (match.pattern, match.replacement) == ("fused-attention", "one Triton kernel")
    assert found == {"attention": 1}
    assert len(gpu.cases) == 1


def test_torch_where_it_is_faster(gpu):
    gpu.winners["attention"] = "sdpa"
    (match,), found = assert_same_results(Fused(), torch.randn(2, 10, 16))
    assert "measured to be faster" in match.reason
    assert found == {"sdpa": 1}


def test_strict_float32_has_no_kernel(gpu):
    gpu.precision = "ieee"
    (match,), found = assert_same_results(Fused(), torch.randn(2, 10, 16))
    assert match.reason == "there is no kernel for strict float32"
    assert found == {"sdpa": 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"attn_mask": torch.zeros(10, 10)}, "it has a mask"),
        ({"is_causal": True}, "it has a mask"),
        ({"dropout_p": 0.5}, "it has dropout or shares keys among heads"),
    ],
)
def test_what_the_kernel_does_not_compute(gpu, options, reason):
    _, (match,), found = rewritten(Fused(**options), torch.randn(2, 10, 16))
    assert match.reason == reason
    assert found == {"sdpa": 1}


def test_transformer_of_torchvision(gpu):
    net = VisionTransformer(16, 8, 2, 2, 16, 32, num_classes=3)
    matches, found = assert_same_results(net, torch.randn(2, 3, 16, 16))
    assert [(m.pattern, m.reason) for m in matches] == [("fused-attention", "")] * 2
    assert found == {}  # the operator is called by a function of the pattern
    assert len(gpu.cases) == 2


class Module(nn.Module):
    def __init__(self, dropout=0.0, other=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, dropout=dropout, batch_first=True)
        self.other, self.options = other, options

    def forward(self, x):
        return self.attention(x, x.flip(1) if self.other else x, x, **self.options)[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"need_weights": False}, ""),
        ({}, "it has a mask, returns its weights or projects keys and values separately"),
        ({"need_weights": False, "dropout": 0.5}, "it has dropout"),
        ({"need_weights": False, "other": True}, "queries, keys and values are not the same"),
    ],
)
def test_modules(gpu, options, reason):
    _, (match,), _ = rewritten(Module(**options), torch.randn(2, 10, 16))
    assert match.reason.startswith(reason)
    assert bool(match.replacement) == (not reason)


def test_transformer_of_timm(gpu):
    timm = pytest.importorskip("timm")
    net = timm.create_model("test_vit", img_size=32, depth=1, num_classes=3)
    _, found = assert_same_results(net, torch.randn(2, 3, 32, 32))
    assert found["attention"] == len(net.blocks)


def test_reasons_on_a_cpu():
    assert matches_on_cpu(Fused(), torch.randn(2, 10, 16)) == [
        ("fused-attention", "it is torch's fused attention already")
    ]
    window = ShiftedWindowAttention(8, [4, 4], [2, 2], 2).eval()
    assert matches_on_cpu(window, torch.randn(2, 8, 8, 8)) == [
        ("attention", "a bias or mask is added to its scores")
    ]
