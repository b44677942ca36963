"""X-DER: the contrastive loss of future heads."""

import pytest
import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner
from mammoth_compiled.models import xder
from mammoth_compiled.models.common.contrast import contrastive_loss
from mammoth_compiled.types import Batch


@pytest.fixture
def model_and_batch(tiny):
    args = {"seed": 0, "batch_size": 8, "buffer_size": 12, "compile": "off"}
    own = {"alpha": 0.3, "beta": 0.8, "simclr_num_aug": 3, "simclr_temp": 2.0, "lambd": 0.5}
    model, dataset = load_runner("xder", "seq-tiny", {**args, **own})
    loader, _ = dataset.meta_get_data_loaders()
    return model, Batch(*next(iter(loader)))


def test_every_future_head_contrasts_the_views(model_and_batch, monkeypatch):
    model, batch = model_and_batch
    monkeypatch.setattr(xder, "strong_view", lambda images: images)
    model.net.eval()
    logits = model.net(batch.inputs).repeat_interleave(3, 0)  # without augmentation
    labels = batch.labels.repeat_interleave(3)
    heads = [F.normalize(logits[:, 2:4]), F.normalize(logits[:, 4:6])]
    expected = sum(contrastive_loss(head, labels, 2.0) for head in heads) / 2
    torch.testing.assert_close(model.future_contrast(batch), expected)


def test_gradient_reaches_the_future_heads_only(model_and_batch):
    model, batch = model_and_batch
    weight = model.net.classifier.weight
    (gradient,) = torch.autograd.grad(model.future_contrast(batch), weight)
    assert not gradient[:2].any()
    assert gradient[2:].flatten(1).any(1).all()


def test_last_task_has_no_future(model_and_batch):
    model, batch = model_and_batch
    model.dataset.c_task = 2
    batch.labels += 4
    model.net.eval()
    # An empty buffer and no future leave the cross entropy of the current head.
    expected = F.cross_entropy(model.net(batch.inputs)[:, 4:], batch.labels - 4)
    torch.testing.assert_close(model.training_loss(batch), expected)
