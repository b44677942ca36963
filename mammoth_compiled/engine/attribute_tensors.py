"""Tensors that a model holds as plain attributes, kept at one address for a captured step."""

from typing import Any

import torch

from mammoth_compiled.models.base import ContinualModel


class AttributeTensors:
    """The tensors among a model's attributes, apart from its parameters and modules.

    User code often replaces such a tensor in every step: `self.mean = 0.9 * self.mean + ...`. A
    CUDA graph reads and writes fixed addresses, so `restore` copies the new value into the tensor
    that the graph knows.

    Args:
        model: The model.
    """

    def __init__(self, model: ContinualModel) -> None:
        self._model = model
        self._tensors: dict[str, torch.Tensor] = {}
        # Those that `restore` left in place of held ones.
        self._left: dict[str, torch.Tensor] = {}

    def addresses(self) -> list[Any]:
        """Returns names and addresses of the tensors, of the held one where one is to be put back.

        They differ from those at the capture if user code replaced a tensor outside of a step.
        """
        current = self._find()
        for name, tensor in self._left.items():
            if current.get(name) is tensor:
                current[name] = self._tensors[name]
        return [(name, tensor.data_ptr()) for name, tensor in current.items()]

    def hold(self) -> None:
        """Takes the current tensors as those that the graph knows."""
        self._tensors = {name: tensor.detach() for name, tensor in self._find().items()}
        self._left = {}
        self._set(self._tensors)

    @property
    def fit(self) -> bool:
        """Whether the last `restore` could put all held tensors back."""
        return not self._left

    def put_back(self) -> None:
        """Puts the held tensors back where `restore` left another, with their own values."""
        self._set({name: self._tensors[name] for name in self._left})
        self._left = {}

    def abandon(self) -> None:
        """Puts all held tensors back after a failed capture, which computed no values."""
        self._set(self._tensors)

    @torch.no_grad()
    def restore(self, same_shapes: bool = True) -> None:
        """Puts the held tensors back, with the values of those that replaced them.

        Args:
            same_shapes: False leaves a new tensor of another shape, dtype or device where it is,
                until the next `put_back`.

        Raises:
            RuntimeError: If `same_shapes` and there is such a tensor.
        """
        # Copies first: one attribute may now hold the former tensor of another.
        values: dict[str, torch.Tensor] = {}
        self._left = {}
        for name, tensor in self._find().items():
            held = self._tensors.get(name, tensor)
            if (tensor.shape, tensor.dtype, tensor.device) == (held.shape, held.dtype, held.device):
                if tensor is not held:
                    values[name] = tensor.detach().clone()
            elif same_shapes:
                raise RuntimeError(
                    f"each step replaces {name} by a tensor of another shape, dtype or device"
                )
            else:
                self._left[name] = tensor
        for name, value in values.items():
            self._tensors[name].copy_(value)
        self._set({name: self._tensors[name] for name in values})

    def _find(self) -> dict[str, torch.Tensor]:
        own = {**vars(self._model), **self._model._buffers}
        return {name: value for name, value in own.items() if isinstance(value, torch.Tensor)}

    def _set(self, tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            setattr(self._model, name, tensor)
