"""The CNN with self-attention."""

import pytest
import torch
from contract_cases import BackboneCase

from mammoth_compiled.backbones.attention import attention_cnn

CASES = {"attention-cnn": BackboneCase({"num_channels": 4})}


@pytest.mark.parametrize("size", [28, 32, 64])
def test_image_sizes(size):
    assert attention_cnn(7, num_channels=4)(torch.rand(2, 3, size, size)).shape == (2, 7)
