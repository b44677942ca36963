"""Gradients of single images, together and one by one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.models.common.per_image import per_image_gradients


class ReadsValues(nn.Linear):
    """Reads a value on the host, for which vmap has no rule."""

    def forward(self, x):
        return super().forward(x) * (2.0 if x.sum().item() > 1e9 else 1.0)


@pytest.mark.parametrize("kind", [nn.Linear, ReadsValues])
def test_gradients_are_those_of_each_image(kind):
    net = nn.Sequential(nn.Flatten(), kind(12, 5), nn.ReLU(), nn.Linear(5, 3))
    images, labels = torch.randn(4, 3, 2, 2), torch.tensor([0, 2, 1, 1])
    grads, losses = per_image_gradients(net, images, labels)
    for k in range(4):
        loss = F.cross_entropy(net(images[k : k + 1]), labels[k : k + 1])
        expected = torch.autograd.grad(loss, list(net.parameters()))
        torch.testing.assert_close(grads[k], torch.cat([g.flatten() for g in expected]))
        torch.testing.assert_close(losses[k], loss)
    assert all(p.grad is None for p in net.parameters())
