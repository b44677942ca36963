"""Builds the dataset, the backbone and the model of a run from their names."""

import inspect
import warnings
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.contract import probe
from mammoth_compiled.config import resolve
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import computes_bf16, get_device, set_seed
from mammoth_compiled.engine.forward import ForwardPolicy, attach
from mammoth_compiled.errors import ConfigError, ContractError
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.registry import backbones, datasets, models


def load_runner(
    model: str, dataset: str, args: Mapping[str, Any] | None = None
) -> tuple[ContinualModel, ContinualDataset]:
    """Builds a model with its backbone, and its dataset.

    Args:
        model: Registered name of the algorithm.
        dataset: Registered name of the dataset.
        args: Arguments by name, those of the model, the backbone and the dataset included. What is
            missing comes from the best known setting of this model on this dataset, else from the
            dataset's defaults.

    Returns:
        The model and the dataset, for `train`.

    Raises:
        RegistryError: If a name is unknown; lists the valid ones.
        ConfigError: If an argument is unknown, missing, of the wrong type or out of range.
        ContractError: If the backbone does not keep the ReturnTypes contract.
    """
    return build(resolve(model, dataset, args or {}))


def build(args: Namespace) -> tuple[ContinualModel, ContinualDataset]:
    """Builds a model and a dataset from all arguments of a run; see `load_runner`."""
    if args.seed is not None:
        set_seed(args.seed)
    entry = datasets[args.dataset]
    options = {p.name: getattr(args, p.name) for p in entry.parameters}
    dataset: ContinualDataset = entry.target(args, **options)
    args.num_classes = dataset.N_CLASSES
    net = build_backbone(args)
    shape = dataset.input_shape()
    if shape is not None:
        try:
            probe(net, shape, dataset.N_CLASSES)
        except ContractError as error:
            raise ContractError(
                f"backbone {args.backbone!r} on {args.dataset!r}: {error}"
            ) from error
    device = get_device(args.device)
    if args.amp == "bf16" and not computes_bf16(device):
        warnings.warn(
            f"--amp bf16: {device} only emulates bfloat16, which is slower than --amp off",
            stacklevel=2,
        )
    attach(net, ForwardPolicy(device=device, amp=args.amp))
    target: Any = models[args.model].target
    model: ContinualModel = target(net, dataset.get_loss(), args, dataset.get_transform(), dataset)
    setting = dataset.SETTING
    if setting not in model.COMPATIBILITY:
        raise ConfigError(
            f"model {args.model!r} is made for {', '.join(model.COMPATIBILITY)}; dataset "
            f"{args.dataset!r} is {setting}"
        )
    if args.amp == "fp16" and type(model).observe is not ContinualModel.observe:
        raise ConfigError(
            f"--amp fp16 scales the loss, and model {args.model!r} has its own observe: use "
            "bf16, or define training_loss instead of observe"
        )
    return model, dataset


def build_backbone(args: Namespace) -> MammothBackbone:
    """Builds the backbone that `args.backbone` names, with its arguments from `args`.

    Raises:
        ContractError: If what is registered does not return a `MammothBackbone`.
    """
    entry = backbones[args.backbone]
    options = {p.name: getattr(args, p.name) for p in entry.parameters}
    if "num_classes" in inspect.signature(entry.target).parameters:
        options["num_classes"] = args.num_classes
    net = entry.target(**options)
    if not isinstance(net, MammothBackbone):
        raise ContractError(
            f"backbone {entry.name!r} ({entry.origin}) gave a {type(net).__name__}; it must "
            "inherit from MammothBackbone"
        )
    return net
