"""Rebuilds the backbone of a training checkpoint."""

import inspect
import warnings
from typing import Any

from mammoth_compiled.backbones import MammothBackbone
from mammoth_compiled.backbones.pretrained import LATER
from mammoth_compiled.checkpoint import read_checkpoint
from mammoth_compiled.errors import CheckpointError, RegistryError
from mammoth_compiled.registry import backbones, models
from mammoth_compiled.types import DatasetInfo


def load_backbone(path: str) -> tuple[str, MammothBackbone, DatasetInfo]:
    """Builds the backbone of a checkpoint and loads its weights.

    Returns:
        Its registered name, the backbone, and the checkpoint's description of the data.

    Raises:
        CheckpointError: If the file is not a checkpoint, or does not fit the backbone it names.
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
        if weights and not set(weights) & set(net.state_dict()):
            raise CheckpointError(
                f"{path} holds a network that its model built around backbone {name!r}, such as "
                "one with prompts or another head: export it in the run, with --export, or with "
                "export_bundle(model, ...)"
            )
        net.load_state_dict(weights)
    except CheckpointError:  # is a ValueError too
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the weights of {path} do not fit backbone {name!r} with {arguments}: {error}"
        ) from error
    _warn_of_other_scores(checkpoint["model"]["name"])
    return str(name), net, info


def _warn_of_other_scores(method: str) -> None:
    """Warns if a method predicts with other scores than the logits of its backbone."""
    if method not in models:
        return
    deployed = getattr(models[method].target, "deployed_net", None)
    # Overridden, which the base class would tell, but exports do not depend on models.
    if deployed is not None and not deployed.__qualname__.startswith("ContinualModel."):
        warnings.warn(
            f"{method} predicts with scores that the backbone of a checkpoint lacks: `out` will be "
            "the backbone's logits. To export the scores, give the run --loadcheck CHECKPOINT "
            "--inference_only 1 --export DIR",
            stacklevel=3,
        )
