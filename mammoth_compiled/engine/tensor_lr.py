"""Learning rates as tensors on the device, where a captured graph reads their current values."""

from typing import Any

import torch


class TensorLearningRates:
    """Moves the learning rates of an optimizer to the device and back.

    Args:
        device: Where they are needed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # By index of the parameter group.
        self._tensors: dict[int, torch.Tensor] = {}
        self._originals: dict[int, dict[str, Any]] = {}

    def move(self, optimizer: Any) -> None:
        """Replaces learning rates that are numbers by tensors; keeps those that are tensors.

        A group always gets the same tensor, since a hook may set a number before each epoch.
        """
        for k, group in enumerate(groups_with_lr(optimizer)):
            if isinstance(group["lr"], torch.Tensor):
                continue
            tensor = self._tensors.setdefault(k, torch.empty((), device=self._device))
            self._originals[k] = {key: group[key] for key in ("lr", "capturable") if key in group}
            group["lr"] = tensor.fill_(group["lr"])
            if "capturable" in group:
                group["capturable"] = True

    def restore(self, optimizer: Any) -> None:
        """Turns the tensors back into numbers, exactly the original ones if unchanged."""
        for k, group in enumerate(groups_with_lr(optimizer)):
            tensor = self._tensors.get(k)
            if tensor is None or group["lr"] is not tensor:
                continue
            current, original = float(tensor), self._originals[k]
            # The tensor holds the original rounded to float32.
            unchanged = current == torch.tensor(original["lr"]).item()
            group |= original if unchanged else original | {"lr": current}


def groups_with_lr(optimizer: Any) -> list[dict[str, Any]]:
    """Returns the parameter groups that have a learning rate; an optimizer may be anything."""
    return [group for group in getattr(optimizer, "param_groups", []) if "lr" in group]
