"""The MLP of the MNIST family."""

import torch
from contract_cases import BackboneCase

from mammoth_compiled.backbones.mlp import MNISTMLP

CASES = {"mnistmlp": BackboneCase({"hidden_size": 8}, input_shape=(1, 28, 28))}


def test_number_of_parameters_for_10_classes():
    with torch.device("meta"):
        net = MNISTMLP(num_classes=10)
    assert sum(p.numel() for p in net.parameters()) == 89_610
