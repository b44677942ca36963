"""The vision transformer: its size, its attention, and weights in timm's names."""

import pytest
import torch
from contract_cases import BackboneCase

from mammoth_compiled.backbones.vit import Attention, vit_tiny
from mammoth_compiled.errors import ConfigError

SMALL = {"width": 24, "depth": 2, "patch_size": 8}
CASES = {"vit-tiny": BackboneCase(SMALL)}


def test_number_of_parameters():
    with torch.device("meta"):
        net = vit_tiny(num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == 5_362_762


def test_attention_is_softmax_of_scaled_products():
    attention = Attention(6, num_heads=2)
    x = torch.randn(2, 5, 6)
    query, key, value = (t.reshape(2, 5, 2, 3).movedim(2, 1) for t in attention.qkv(x).chunk(3, -1))
    weights = (query @ key.mT / 3**0.5).softmax(-1)
    expected = attention.proj((weights @ value).movedim(1, 2).reshape(2, 5, 6))
    torch.testing.assert_close(attention(x), expected)


def test_a_prefix_adds_keys_and_values():
    attention = Attention(6, num_heads=1)
    x, keys, values = torch.randn(2, 5, 6), torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    query, key, value = attention.qkv(x).chunk(3, -1)
    weights = (query @ torch.cat((keys, key), 1).mT / 6**0.5).softmax(-1)
    expected = attention.proj(weights @ torch.cat((values, value), 1))
    torch.testing.assert_close(attention(x, (keys, values)), expected)


def test_equals_timm_with_the_same_weights(tmp_path):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=3,
        num_classes=7,
    ).eval()
    path = tmp_path / "weights.pt"
    torch.save({"model": theirs.state_dict()}, path)
    net = vit_tiny(num_classes=5, **SMALL, pretrained=str(path)).eval()
    images = torch.rand(2, 3, 32, 32)
    expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    torch.testing.assert_close(net.features(images), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 5}, "--patch_size 5 does not divide images of 32x32"),
        ({"num_heads": 5}, "--num_heads 5 does not divide --width 192"),
        ({"pretrained": "nowhere.pt"}, "--pretrained nowhere.pt: no such file"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ConfigError, match=message):
        vit_tiny(num_classes=5, **arguments)


def test_gray_images_of_28_pixels():
    net = vit_tiny(3, **{**SMALL, "patch_size": 7}, input_size=(28, 28), in_channels=1)
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 3)
