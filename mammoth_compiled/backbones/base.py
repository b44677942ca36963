"""MammothBackbone: the base class of every backbone."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from torch import nn

from mammoth_compiled.types import ReturnTypes, unknown_returnt


class ForwardRunner(Protocol):
    """How a backbone's calls are run, compiled for example; see `engine.forward`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs one call of the backbone."""

    def for_copy(self, net: "MammothBackbone") -> "ForwardRunner":
        """Returns a runner of the same kind for a copy of the backbone."""


class MammothBackbone(nn.Module):
    """A network with a classification head that returns what it is asked for.

    Write `forward(x, returnt=ReturnTypes.OUT)`; `x` is float [B, C, H, W], and `returnt` says
    whether logits, features, both, or also the stage maps are wanted (see `ReturnTypes`).

    A registered backbone may run compiled. It stays the same module: `state_dict()` keys and
    `isinstance` are untouched, and a deep copy runs the way the original does.

    Args:
        **kwargs: `device`, kept as attribute; others are ignored.

    Attributes:
        device: Where the parameters are; kept up to date when they move.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.device = torch.device(kwargs.get("device", "cpu"))

    @abstractmethod
    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Computes what `returnt` asks for from images [B, C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, returnt)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward`, compiled where the framework was told to.

        Raises:
            ValueError: If `forward` returns nothing, the sign of an unknown `returnt`.
        """
        runner = self.__dict__.get("_runner")
        result = super().__call__(*args, **kwargs) if runner is None else runner(*args, **kwargs)
        if result is None:
            returnt = kwargs.get("returnt", args[1] if len(args) > 1 else ReturnTypes.OUT)
            raise ValueError(f"{type(self).__name__}: {unknown_returnt(returnt)}")
        return result

    @property
    def features(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """`features(x)` returns the features [B, F]; compiled if the backbone is.

        A backbone may have a submodule of this name: then `features` is that submodule, and the
        features are asked for with `returnt`.
        """
        own = self._modules.get("features")
        return own if own is not None else self._features

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self(x, returnt=ReturnTypes.FEATURES)
        return result

    def set_runner(self, runner: ForwardRunner | None) -> None:
        """Sets how calls are run; None runs `forward` as it is."""
        self.__dict__["_runner"] = runner

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_runner", None)
        state.pop("_compiled_call_impl", None)
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        clone = self.__class__.__new__(self.__class__)
        memo[id(self)] = clone
        clone.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        runner = self.__dict__.get("_runner")
        if runner is not None:
            clone.set_runner(runner.for_copy(clone))
        return clone

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # All that moves a module comes here: to(), cuda(), cpu(), and to() of what it is part of.
        super()._apply(*args, **kwargs)
        parameter = next(self.parameters(), None)
        if parameter is not None:
            self.device = parameter.device
        return self

    def get_params(self) -> torch.Tensor:
        """Returns all parameters as one vector, differentiable."""
        return nn.utils.parameters_to_vector(self.parameters())

    def set_params(self, new_params: torch.Tensor) -> None:
        """Writes a vector as `get_params` returns it into the parameters."""
        nn.utils.vector_to_parameters(new_params, self.parameters())

    def get_grads(self) -> torch.Tensor:
        """Returns all gradients as one vector.

        Raises:
            ValueError: If a parameter has no gradient; names it.
        """
        grads = []
        for name, parameter in self.named_parameters():
            if parameter.grad is None:
                raise ValueError(f"parameter {name!r} has no gradient: call backward() first")
            grads.append(parameter.grad.reshape(-1))
        return torch.cat(grads)

    def set_grads(self, new_grads: torch.Tensor) -> None:
        """Writes a vector as `get_grads` returns it into the gradients."""
        parameters = list(self.parameters())
        chunks = new_grads.split([p.numel() for p in parameters])
        for parameter, chunk in zip(parameters, chunks, strict=True):
            parameter.grad = chunk.view_as(parameter)


def select_return(logits: torch.Tensor, features: torch.Tensor, returnt: ReturnTypes) -> Any:
    """Returns what `returnt` asks for from logits [B, K] and features [B, F].

    Raises:
        ValueError: If `returnt` is neither out, features nor both; lists the valid values.
    """
    if returnt == ReturnTypes.OUT:
        return logits
    if returnt == ReturnTypes.FEATURES:
        return features
    if returnt == ReturnTypes.BOTH:
        return logits, features
    raise ValueError(unknown_returnt(returnt))
