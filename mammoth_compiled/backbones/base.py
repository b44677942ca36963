"""MammothBackbone: the base class of all backbones."""

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from torch import nn

from mammoth_compiled.types import ReturnTypes, unknown_returnt


class ForwardRunner(Protocol):
    """Runs the calls of a backbone, for example compiled; see `mammoth_compiled.engine.forward`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs one call of the backbone."""

    def for_copy(self, net: "MammothBackbone") -> "ForwardRunner":
        """Returns an equivalent runner for a copy of the backbone."""


class MammothBackbone(nn.Module):
    """A network with a classification head that returns logits, features or both.

    A subclass defines `forward(x, returnt=ReturnTypes.OUT)`. Its input `x` is float, [B, C, H, W];
    `returnt` selects what it returns, see `ReturnTypes`.

    A backbone may run compiled. It remains the same module: `state_dict()` keys and `isinstance`
    are unaffected, and a deep copy runs the same way as the original.

    Args:
        **kwargs: `device` sets the initial value of the attribute; other arguments are ignored.

    Attributes:
        device: Device of the parameters; follows them when they move.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Linear(MammothBackbone):
        ...     def __init__(self, num_classes):
        ...         super().__init__()
        ...         self.classifier = nn.Linear(3 * 8 * 8, num_classes)
        ...
        ...     def forward(self, x, returnt=ReturnTypes.OUT):
        ...         features = x.flatten(1)
        ...         return select_return(self.classifier(features), features, returnt)
        >>> net = Linear(num_classes=10)
        >>> images = torch.rand(2, 3, 8, 8)
        >>> net(images).shape, net.features(images).shape
        (torch.Size([2, 10]), torch.Size([2, 192]))
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.device = torch.device(kwargs.get("device", "cpu"))

    @abstractmethod
    def forward(self, x: torch.Tensor, returnt: ReturnTypes = ReturnTypes.OUT) -> Any:
        """Computes the outputs selected by `returnt` from images, float, [B, C, H, W]."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, returnt)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs `forward`, compiled if a compiled runner is set.

        Raises:
            ValueError: If `forward` returns None, which means that `returnt` is unknown to it.
        """
        runner = self.__dict__.get("_runner")
        result = super().__call__(*args, **kwargs) if runner is None else runner(*args, **kwargs)
        if result is None:
            returnt = kwargs.get("returnt", args[1] if len(args) > 1 else ReturnTypes.OUT)
            raise ValueError(f"{type(self).__name__}: {unknown_returnt(returnt)}")
        return result

    @property
    def features(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The function `features(x)` that returns the features, [B, F], compiled like any call.

        If the backbone has a submodule named `features`, this is the submodule, and features are
        available through `returnt` only.
        """
        own = self._modules.get("features")
        return own if own is not None else self._features

    def _features(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self(x, returnt=ReturnTypes.FEATURES)
        return result

    @property
    def has_runner(self) -> bool:
        """Whether a runner is set."""
        return self.__dict__.get("_runner") is not None

    def set_runner(self, runner: ForwardRunner | None) -> None:
        """Sets the runner of all calls; None calls `forward` in eager mode."""
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
        # Every move of a module ends here: to(), cuda(), cpu(), and to() of its parent module.
        super()._apply(*args, **kwargs)
        parameter = next(self.parameters(), None)
        if parameter is not None:
            self.device = parameter.device
        return self

    def get_params(self) -> torch.Tensor:
        """Returns all parameters as one differentiable vector, [P]."""
        return nn.utils.parameters_to_vector(self.parameters())

    def set_params(self, new_params: torch.Tensor) -> None:
        """Sets the parameters from a vector as returned by `get_params`, [P]."""
        nn.utils.vector_to_parameters(new_params, self.parameters())

    def get_grads(self) -> torch.Tensor:
        """Returns all gradients as one vector, [P].

        Raises:
            ValueError: If a parameter has no gradient.
        """
        grads = []
        for name, parameter in self.named_parameters():
            if parameter.grad is None:
                raise ValueError(f"parameter {name!r} has no gradient: call backward() first")
            grads.append(parameter.grad.reshape(-1))
        return torch.cat(grads)

    def set_grads(self, new_grads: torch.Tensor) -> None:
        """Sets the gradients from a vector as returned by `get_grads`, [P]."""
        parameters = list(self.parameters())
        chunks = new_grads.split([p.numel() for p in parameters])
        for parameter, chunk in zip(parameters, chunks, strict=True):
            parameter.grad = chunk.view_as(parameter)


def select_return(logits: torch.Tensor, features: torch.Tensor, returnt: ReturnTypes) -> Any:
    """Returns the outputs that `returnt` selects.

    Args:
        logits: [B, K].
        features: [B, F].
        returnt: `OUT`, `FEATURES` or `BOTH`, as a member of `ReturnTypes` or its string.

    Returns:
        `logits`, `features`, or the tuple of both.

    Raises:
        ValueError: If `returnt` is none of these.

    Example:
        >>> import torch
        >>> select_return(torch.zeros(1, 2), torch.ones(1, 3), "features")
        tensor([[1., 1., 1.]])
    """
    if returnt == ReturnTypes.OUT:
        return logits
    if returnt == ReturnTypes.FEATURES:
        return features
    if returnt == ReturnTypes.BOTH:
        return logits, features
    raise ValueError(unknown_returnt(returnt))
