"""APER: original and tuned features, side by side."""

import torch
from torch.nn import functional as F

from mammoth_compiled.registry import models


def test_features_are_original_and_tuned_ones(tiny, run_tiny):
    model, _, _ = run_tiny("aper", **models["aper"].target.EXAMPLE_ARGS)
    images, labels = (torch.from_numpy(part) for part in tiny.images(18, seed=1))
    inputs = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    net = model.net.eval()
    with torch.no_grad():
        scores, features = net(inputs, returnt="both")
        original = net.vit(inputs, returnt="features")
        torch.testing.assert_close(features[:, :24], original)
        assert not torch.allclose(features[:, 24:], original, atol=1e-3)
        for adapter in net.adapters:
            adapter.up.weight.zero_()
            adapter.up.bias.zero_()
        torch.testing.assert_close(net(inputs, returnt="features")[:, 24:], original)
    means = torch.stack([features[labels == k].mean(0) for k in range(6)])
    expected = F.cosine_similarity(features[:, None], means[None], dim=2)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
