"""LwF.MC: binary cross-entropy over the classes seen, with the teacher's sigmoids as targets."""

import torch

from mammoth_compiled import load_runner
from mammoth_compiled.models.common.teacher import distilled_bce
from mammoth_compiled.types import Batch


def test_loss_by_hand():
    logits = torch.tensor([[0.5, -1.0, 2.0]])
    old = torch.tensor([[1.5, 0.0]])
    p, q = logits[0].sigmoid(), old[0].sigmoid()
    terms = [
        -(q[0] * p[0].log() + (1 - q[0]) * (1 - p[0]).log()),
        -(q[1] * p[1].log() + (1 - q[1]) * (1 - p[1]).log()),
        -p[2].log(),
    ]
    loss = distilled_bce(logits, torch.tensor([2]), old)
    torch.testing.assert_close(loss, sum(terms) / 3)
    # Without a teacher the targets are one-hot.
    expected = (-(1 - p[0]).log() - (1 - p[1]).log() - p[2].log()) / 3
    torch.testing.assert_close(distilled_bce(logits, torch.tensor([2]), None), expected)


def test_future_classes_take_no_part(tiny):
    model, dataset = load_runner("lwf-mc", "seq-tiny", {"seed": 0})
    dataset.meta_get_data_loaders()
    model.end_task(dataset)
    dataset.meta_get_data_loaders()
    images = torch.randn(3, 3, 8, 8)
    model.training_loss(Batch(images, torch.tensor([2, 3, 2]), images)).backward()
    grad = model.net.classifier.weight.grad
    assert (grad[:4] != 0).any(1).all()
    assert (grad[4:] == 0).all()
