"""Compiles in the first task what a model computes from its second task on."""

import torch

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.distributed import divided, part
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.types import Batch


def compile_ahead(model: ContinualModel, dataset: ContinualDataset) -> None:
    """Computes the loss of later tasks and its gradient twice, and changes nothing.

    The first time runs in eager mode and the second one compiled, as in training. Call it at the
    end of the first task, with everything set up as for the second one. It draws random numbers
    whether or not the run is compiled, so that both see the same ones.

    Args:
        model: A model with `training_loss`; what that changes besides the buffers of `model.net`,
            such as running statistics, is not restored.
        dataset: The dataset, in its first task.
    """
    loader, size = dataset.train_loader, model.args.batch_size
    inputs, labels, images, *_ = loader.gather(torch.arange(size) % len(loader.dataset))
    parameters = [p for p in model.net.parameters() if p.requires_grad]
    saved = [buffer.clone() for buffer in model.net.buffers()]
    for _ in range(2):
        with model.compute.step(size), divided(size), torch.enable_grad():
            batch = Batch(part(inputs), part(labels), part(images))
            torch.autograd.grad(model.training_loss(batch), parameters, allow_unused=True)
    with torch.no_grad():
        for buffer, value in zip(model.net.buffers(), saved, strict=True):
            buffer.copy_(value)
