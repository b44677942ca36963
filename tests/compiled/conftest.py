"""Graphs as torch.export makes them, for tests of what is done to Dynamo's."""

import pytest
import torch
from torch.export import Dim


@pytest.fixture
def exported():
    """Returns a function that captures a net in eval mode, for any batch if it takes any."""

    def capture(net, images):
        with torch.no_grad():
            program = torch.export.export(
                net.eval(), (images,), dynamic_shapes=({0: Dim.AUTO},), strict=False
            )
        return program.module()

    return capture
