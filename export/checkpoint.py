"""Rebuilds the network of a training checkpoint."""

import inspect
from collections.abc import Mapping
from typing import Any

from mammoth_compiled.backbones import MammothBackbone
from mammoth_compiled.backbones.pretrained import LATER
from mammoth_compiled.checkpoint import load_copy, read_checkpoint
from mammoth_compiled.errors import CheckpointError, RegistryError
from mammoth_compiled.registry import backbones, models
from mammoth_compiled.types import DatasetInfo


def load_backbone(path: str) -> tuple[str, MammothBackbone, DatasetInfo]:
    """Builds the network that the model of a checkpoint deploys, and loads its weights.

    That is its backbone, or what `ContinualModel.deployed_net` returns: a network that the model
    built around the backbone, or one that computes scores of its own.

    Returns:
        The registered name of the backbone, the network, and the checkpoint's description of the
        data.

    Raises:
        CheckpointError: If the file is not a checkpoint, or does not fit the backbone or the model
            that it names.
        RegistryError: If that backbone is not registered.
    """
    checkpoint = read_checkpoint(path)
    try:
        name, given = checkpoint["backbone"]["name"], checkpoint["backbone"]["arguments"]
        weights = checkpoint["net"]
        info = DatasetInfo.from_dict(checkpoint["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not describe its backbone ({type(error).__name__}: {error}). Give a "
            "checkpoint that mammoth_compiled saved"
        ) from error
    try:
        target = backbones[name].target
    except RegistryError as error:
        raise RegistryError(f"{error}. --import the file that registers your backbone") from error
    arguments: dict[str, Any] = dict(given)
    if "num_classes" in inspect.signature(target).parameters:
        arguments.setdefault("num_classes", info.num_classes)
    is_ours = target.__module__.startswith("mammoth_compiled.")
    if is_ours and arguments.get("pretrained", "none") != "none":
        arguments["pretrained"] = LATER  # the checkpoint has the weights
    try:
        net: MammothBackbone = target(**arguments)
        method = checkpoint["model"]["name"]
        if method in models and _has_own_net(models[method].target, net, weights):
            return str(name), _rebuild(path, checkpoint, net), info
        if weights and not set(weights) & set(net.state_dict()):
            raise CheckpointError(
                f"{path} holds the network of model {method!r}, which is not backbone {name!r} "
                "alone: --import the file that registers the model"
            )
        load_copy(net, weights)
    except CheckpointError:  # is a ValueError too
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the weights of {path} do not fit backbone {name!r} with {arguments}: {error}"
        ) from error
    return str(name), net, info


def _has_own_net(method: Any, net: MammothBackbone, weights: Mapping[str, Any]) -> bool:
    """Returns whether a method deploys another network than its backbone."""
    deployed = getattr(method, "deployed_net", None)
    # Overridden, which the base class would tell, but exports do not depend on models.
    own_scores = deployed is not None and not deployed.__qualname__.startswith("ContinualModel.")
    return own_scores or (deployed is not None and set(weights) != set(net.state_dict()))


def _rebuild(path: str, checkpoint: Mapping[str, Any], backbone: MammothBackbone) -> Any:
    """Returns the network that the method of a checkpoint deploys.

    Raises:
        CheckpointError: If the method cannot be rebuilt from the checkpoint alone.
    """
    method = checkpoint["model"]["name"]
    target: Any = models[method].target
    try:
        return target.deployed_net_of(checkpoint, backbone)
    except Exception as error:  # user code may raise anything
        raise CheckpointError(
            f"{path}: model {method!r} cannot be rebuilt without its data "
            f"({type(error).__name__}: {error}). Export it in the run, with --export, or give the "
            f"run --loadcheck {path} --inference_only 1 --export DIR"
        ) from error
