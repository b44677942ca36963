"""The small CNN: published sizes and image sizes."""

import pytest
import torch
from contract_cases import BackboneCase

from mammoth_compiled.backbones import probe
from mammoth_compiled.backbones.cnn import cnn
from mammoth_compiled.errors import MammothError
from mammoth_compiled.registry import backbones

CASES = {
    "cnn": BackboneCase({"num_channels": 4}),
    "cnn-wide": BackboneCase({"num_channels": 4}),
}


@pytest.mark.parametrize(("name", "count"), [("cnn", 60_362), ("cnn-wide", 157_578)])
def test_number_of_parameters_for_10_classes(name, count):
    with torch.device("meta"):
        net = backbones[name].target(num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("size", [28, 30, 64])
def test_input_size_sets_the_width_of_the_head(size):
    net = cnn(num_classes=3, num_channels=2, input_size=size)
    assert probe(net, (3, size, size), 3).feature_dim == net.feature_dim
    with pytest.raises(MammothError, match="Check the input size"):
        probe(net, (3, size + 8, size + 8))
