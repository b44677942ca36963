"""Torchvision's classifiers: names, sizes, channels and pretrained weights."""

import pytest
import torch
import torchvision
from contract_cases import BackboneCase

from mammoth_compiled.backbones.torchvision import find
from mammoth_compiled.errors import ConfigError, RegistryError
from mammoth_compiled.registry import backbones

CASES = {"tv:shufflenet_v2_x0_5": BackboneCase()}


def build(name, num_classes=7, **arguments):
    return backbones[f"tv:{name}"].target(num_classes=num_classes, **arguments)


@pytest.mark.parametrize("name", ["tv:vit_b_16", "TV:ViT-B-16"])
def test_names_in_any_spelling(name):
    entry = backbones[name]
    assert entry.name == "tv:vit_b_16"
    assert entry.summary == "vit_b_16 of torchvision."
    assert name in backbones
    assert not [listed for listed in backbones if ":" in listed]


def test_unknown_name_suggests_three():
    with pytest.raises(RegistryError, match=r"no network 'resnet19'. Did you mean 'resnet\d+' or "):
        backbones["tv:resnet19"]
    with pytest.raises(RegistryError, match=r"unknown backbone 'resnet'.*tv:NAME"):
        backbones["resnet"]


@pytest.mark.parametrize(
    ("name", "size", "resize"),
    [
        ("shufflenet_v2_x0_5", (28, 28), None),
        ("vgg11", (28, 28), (32, 32)),  # its five poolings leave nothing of 28 pixels
        ("alexnet", (32, 32), (64, 64)),
        ("squeezenet1_1", (40, 30), None),
    ],
)
def test_images_are_resized_only_if_necessary(name, size, resize):
    with torch.device("meta"):
        net = build(name, input_size=size)
        assert net.resize == resize
        assert net(torch.rand(2, 3, *size)).shape == (2, 7)


def test_resize_of_the_user():
    net = build("shufflenet_v2_x0_5", resize=64)
    assert net.resize == (64, 64)
    with pytest.raises(ConfigError, match=r"'tv:vgg11' does not take images of 16x16: .*--resize"):
        build("vgg11", resize=16)


def test_weights_from_a_file_fit_any_head_and_number_of_channels(tmp_path):
    theirs = torchvision.models.shufflenet_v2_x0_5(num_classes=1000).eval()
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    color, gray = (
        build("shufflenet_v2_x0_5", pretrained=str(path), resize=32, in_channels=c).eval()
        for c in (3, 1)
    )
    theirs.fc = torch.nn.Identity()
    images = torch.rand(2, 1, 32, 32)
    expected = theirs(images.expand(-1, 3, -1, -1))
    torch.testing.assert_close(color.features(images.expand(-1, 3, -1, -1)), expected)
    torch.testing.assert_close(gray.features(images), expected)


def test_pretrained_networks_see_the_size_they_were_trained_on(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    net = build("shufflenet_v2_x0_5", pretrained=str(path))
    assert net.resize == (224, 224)
    # A network to load such weights into needs no file.
    later = build("shufflenet_v2_x0_5", pretrained="later")
    assert later.resize == net.resize
    later.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.ones(1)}, r"336 missing \(conv1.0.weight\), 1 unknown \(a\)"),
        ({"a": 1}, "contains no tensors by name"),
        ([torch.ones(1)], "contains no tensors by name"),
    ],
)
def test_files_that_do_not_fit(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=message):
        build("shufflenet_v2_x0_5", pretrained=str(path))


def test_damaged_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        build("shufflenet_v2_x0_5", pretrained=str(path))


def test_unreachable_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"could not be downloaded from https://.*--pretrained F"):
        build("shufflenet_v2_x0_5", pretrained="hub")


def test_arguments_of_the_network():
    narrow = build("mobilenet_v3_small", net_args=["width_mult=0.5"])
    assert narrow.feature_dim == 512
    with pytest.raises(ConfigError, match="must be KEY=VALUE, got 'depth'"):
        find("resnet18")[1](7, net_args=["depth"])
