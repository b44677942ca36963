"""Vision transformers of torchvision and timm, copied into ours."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from mammoth_compiled.backbones.library import LibraryBackbone
from mammoth_compiled.backbones.torchvision import without_head
from mammoth_compiled.backbones.vit_conversion import as_vit
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import backbones


def assert_equal_outputs(net, images):
    copy = as_vit(net.eval()).eval()
    torch.testing.assert_close(copy(images, returnt="both"), net(images, returnt="both"))


@pytest.mark.parametrize("resize", [None, (32, 32)])
def test_torchvision(resize):
    body = without_head(VisionTransformer(32, 8, 2, 2, 24, 48))
    with torch.no_grad():
        body.encoder.pos_embedding.normal_()
    images = torch.rand(2, 3, 20, 20) if resize else torch.rand(2, 3, 32, 32)
    assert_equal_outputs(LibraryBackbone(body, 24, 5, resize), images)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", ["depth=2"]),
        ("vit_tiny_patch16_224", ["depth=1", "qkv_bias=False", "class_token=True"]),
        ("deit3_small_patch16_224", ["depth=2", "init_values=0.5"]),  # scales, another position
    ],
)
def test_timm(name, arguments):
    pytest.importorskip("timm")
    net = backbones[f"timm:{name}"].target(num_classes=5, net_args=arguments)
    assert_equal_outputs(net, torch.rand(2, 3, 32, 32))


def test_ours_is_returned_itself():
    net = backbones["vit-tiny"].target(num_classes=5, depth=1)
    assert as_vit(net) is net


@pytest.mark.parametrize("name", ["cnn", "tv:shufflenet_v2_x0_5", "timm:vit_base_patch16_clip_224"])
def test_other_networks_are_refused(name):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
        net = backbones[name].target(num_classes=5, net_args=["depth=1", "embed_dim=24"])
    else:
        net = backbones[name].target(num_classes=5)
    modes = [module.training for module in net.modules()]
    with pytest.raises(ConfigError, match=r"needs a plain vision transformer .*tv:vit_b_16"):
        as_vit(net)
    assert [module.training for module in net.modules()] == modes


def test_a_different_activation_is_refused():
    pytest.importorskip("timm")
    arguments = ["depth=1", "act_layer=relu"]
    net = backbones["timm:vit_tiny_patch16_224"].target(num_classes=5, net_args=arguments)
    assert isinstance(net.body.blocks[0].mlp.act, nn.ReLU)
    with pytest.raises(ConfigError, match="plain vision transformer"):
        as_vit(net)
