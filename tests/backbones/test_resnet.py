"""The ResNets: published sizes, image sizes and stage maps."""

import pytest
import torch
from contract_cases import BackboneCase

from mammoth_compiled import ReturnTypes
from mammoth_compiled.registry import backbones

CASES = {
    "resnet18": BackboneCase({"num_filters": 4}, has_full=True),
    "reduced-resnet18": BackboneCase({"num_filters": 4}, has_full=True),
    "resnet32": BackboneCase(has_full=True),
    "resnet50": BackboneCase({"num_filters": 4}, has_full=True),
}


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 11_173_962), ("resnet32", 464_154), ("resnet50", 23_520_842)],
)
def test_number_of_parameters_for_10_classes_is_the_published_one(name, count):
    with torch.device("meta"):
        net = backbones[name].target(num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", CASES)
def test_full_returns_the_maps_of_stem_and_stages(name):
    net = backbones[name].target(num_classes=7, **CASES[name].arguments).eval()
    images = torch.rand(3, *CASES[name].input_shape)
    logits, maps = net(images, returnt=ReturnTypes.FULL)
    assert torch.equal(logits, net(images))
    assert len(maps) == len(net.stages) + 1
    assert all(m.dim() == 4 and len(m) == 3 for m in maps)
    sizes = [m.shape[2] for m in maps]
    assert sizes == sorted(sizes, reverse=True)
    assert torch.allclose(maps[-1].mean((2, 3)), net.features(images), atol=1e-6)


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("name", ["resnet18", "resnet32"])
def test_image_sizes(name, size):
    net = backbones[name].target(num_classes=7, **CASES[name].arguments)
    assert net(torch.rand(2, 3, size, size)).shape == (2, 7)
