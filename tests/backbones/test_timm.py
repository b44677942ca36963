"""timm's networks: families, sizes and pretrained weights."""

import sys

import pytest
import torch
from contract_cases import BackboneCase

timm = pytest.importorskip("timm")

from mammoth_compiled.errors import ConfigError, RegistryError  # noqa: E402
from mammoth_compiled.registry import backbones  # noqa: E402

SWIN = "timm:swin_tiny_patch4_window7_224"
SWIN_ARGS = ["embed_dim=8", "depths=(2,1)", "num_heads=(1,2)", "window_size=4", "drop_path_rate=0"]
CASES = {
    "timm:test_vit": BackboneCase(has_full=True),
    "timm:test_convnext": BackboneCase(has_full=True),
    SWIN: BackboneCase({"net_args": SWIN_ARGS}, has_full=True),
}


def build(name, **arguments):
    return backbones[name].target(num_classes=7, **arguments)


def test_patch_size_and_depth():
    net = build("timm:vit-tiny-patch16-224", net_args=["depth=2", "patch_size=4"])
    assert len(net.body.blocks) == 2
    assert net.body.pos_embed.shape == (1, 1 + 64, 192)


def test_weights_from_a_file_are_adapted(tmp_path):
    path = tmp_path / "weights.pt"
    theirs = timm.create_model("test_vit", num_classes=1000).eval()
    torch.save(theirs.state_dict(), path)
    net = build("timm:test_vit", pretrained=str(path)).eval()
    assert net.resize == (160, 160)
    images = torch.rand(2, 3, 160, 160)
    expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    torch.testing.assert_close(net.body(images), expected)
    later = build("timm:test_vit", pretrained="later").eval()
    assert later.resize == net.resize
    later.load_state_dict(net.state_dict())
    # Position embeddings are interpolated for images of another size.
    assert build("timm:test_vit", pretrained=str(path), resize=32).body.pos_embed.shape[1] == 5


def test_unreachable_weights(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # otherwise it retries
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="weights of timm:test_vit could not be loaded"):
        build("timm:test_vit", pretrained="hub")


@pytest.mark.parametrize("name", ["vit_tinny_patch16_224", "test_vit.no_such_tag"])
def test_unknown_name_suggests_three(name):
    with pytest.raises(RegistryError, match=r"timm has no network .* Did you mean '.*' or '.*' or"):
        backbones[f"timm:{name}"]


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="pip install timm"):
        backbones["timm:test_vit"]
