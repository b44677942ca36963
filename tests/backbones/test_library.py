"""Networks of libraries: compiled they equal eager mode, and every family can be exported.

The networks are small ones of each family, built from the classes of the libraries.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.compilers import nop
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from mammoth_compiled.backbones.library import LibraryBackbone, fit, parse_arguments
from mammoth_compiled.backbones.torchvision import without_head
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.export import export_bundle, load_bundle
from mammoth_compiled.registry import backbones


def torchvision_net(make):
    body, width, resize = fit(lambda size: without_head(make(size[0])), "tv", 3, (32, 32), None)
    return LibraryBackbone(body, width, 7, resize)


def timm_net(name, *arguments):
    pytest.importorskip("timm")
    return backbones[f"timm:{name}"].target(num_classes=7, net_args=arguments)


FAMILIES = {
    "tv-vit": lambda: torchvision_net(lambda side: VisionTransformer(side, 8, 1, 2, 32, 64)),
    "tv-convnext": lambda: torchvision_net(
        lambda _: ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)])
    ),
    "tv-swin": lambda: torchvision_net(
        lambda _: SwinTransformer([4, 4], 8, [1, 2], [2, 2], [4, 4], stochastic_depth_prob=0)
    ),
    "timm-vit": lambda: timm_net("test_vit"),
    "timm-convnext": lambda: timm_net("test_convnext", "depths=(1,1,1,1)", "dims=(8,8,8,8)"),
    "timm-efficientnet": lambda: timm_net("test_efficientnet"),
    "timm-swin": lambda: timm_net(
        "swin_tiny_patch4_window7_224",
        "embed_dim=8",
        "depths=(2,1)",
        "num_heads=(1,2)",
        "window_size=4",
        "drop_path_rate=0",
    ),
}


@pytest.fixture
def net(request):
    return FAMILIES[request.param]()


def gradients(net, call, images):
    net.zero_grad()
    out, features = call(images)
    (out.square().sum() + features.sum()).backward()
    return [out, *(p.grad.clone() for p in net.parameters())]


@pytest.mark.parametrize("net", FAMILIES, indirect=True)
def test_compiled_equals_eager(net):
    torch._dynamo.reset()
    images = torch.rand(4, 3, 32, 32)
    backend = aot_autograd(fw_compiler=nop, bw_compiler=nop)
    compiled = torch.compile(lambda x: net(x, returnt="both"), backend=backend, fullgraph=True)
    expected = gradients(net, lambda x: net(x, returnt="both"), images)
    torch.testing.assert_close(gradients(net, compiled, images), expected, rtol=1e-3, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize("net", ["tv-vit", "tv-swin", "timm-convnext"], indirect=True)
def test_export_to_onnx(net, tmp_path):
    path = export_bundle(net, tmp_path / "b", input_shape=(3, 32, 32), formats="onnx")
    images = torch.rand(3, 3, 32, 32)
    expected = net.eval()(images)
    found = torch.as_tensor(load_bundle(path)(images))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("net", ["tv-vit"], indirect=True)
def test_export_to_aoti(net, tmp_path):
    export_bundle(net, tmp_path / "b", input_shape=(3, 32, 32), formats="aoti")  # verifies itself


def test_resized_images_are_resized_in_the_network():
    class Sums(nn.Module):
        def forward(self, x):
            return x.sum((2, 3))

    net = LibraryBackbone(Sums(), 3, 2, resize=(4, 4))
    features = net.features(torch.ones(1, 3, 2, 2))
    assert features.tolist() == [[16.0, 16.0, 16.0]]


def test_literals_and_texts_as_arguments():
    arguments = parse_arguments("x", ["a=1", "b=(2, 3)", "c=gelu", "d=None", "e=f=g"])
    assert arguments == {"a": 1, "b": (2, 3), "c": "gelu", "d": None, "e": "f=g"}


class Positions(nn.Module):
    """Keeps the positions of the size that it saw first."""

    def __init__(self, side):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.side, self.positions = side, None

    def forward(self, x):
        if self.side != x.shape[-1]:
            raise ValueError(f"images must have {self.side} pixels")
        if self.positions is None:
            self.positions = torch.linspace(0, 1, x.shape[-1], device=x.device)
        return (x * self.positions).mean((2, 3)) * self.weight


def test_networks_may_keep_what_they_compute():
    net, width, resize = fit(lambda size: Positions(size[0]), "x", 3, (8, 8), None)
    assert (net.positions, width, resize) == (None, 3, None)
    assert net(torch.ones(2, 3, 8, 8)).shape == (2, 3)


def test_the_size_that_a_network_was_designed_for_is_tried():
    _, _, resize = fit(lambda _: Positions(240), "x", 3, (8, 8), None, designed=240)
    assert resize == (240, 240)
    with pytest.raises(ConfigError, match="does not take images of 384x384: 'images must have 240"):
        fit(lambda _: Positions(240), "x", 3, (8, 8), None)
