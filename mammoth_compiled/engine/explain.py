"""Explains how the backbone of a run is compiled, without training."""

import torch

from mammoth_compiled.backbones import probe
from mammoth_compiled.compiler.explain import explain
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.engine.forward import forward_function
from mammoth_compiled.models.base import ContinualModel


def explain_backbone(model: ContinualModel, dataset: ContinualDataset) -> str:
    """Returns the graphs and the matched patterns of each return type, as text.

    Args:
        model: The model, as `load_runner` returns it.
        dataset: Its dataset. Data is loaded only if the class declares no SIZE.

    Raises:
        ContractError: If the backbone violates the ReturnTypes contract.
    """
    if dataset.input_shape() is None:
        dataset.meta_get_data_loaders()
    shape = dataset.info().input_shape
    net = model.net.to(model.device)
    images = torch.rand(dataset.config.experiment.batch_size, *shape, device=model.device)
    lines = [f"{type(net).__name__} on {model.device}, images {tuple(images.shape)}"]
    lines += [
        f"returnt={str(returnt)!r}: {explain(forward_function(net, returnt), images)}"
        for returnt in probe(net, shape, dataset.N_CLASSES).supports
    ]
    return "\n".join(lines)
