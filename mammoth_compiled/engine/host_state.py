"""Finds state outside of tensors that a forward pass changes.

A compiled graph repeats what tracing saw: a list shuffled with `random` keeps its order, a counter
its value (or causes a recompilation at every step), and a CUDA graph runs no Python at all. One
eager call shows whether a network depends on such state.
"""

import random
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch import nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, dict, set, deque)


def changed_host_state(net: nn.Module, call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Calls a function and finds out which host state of a network it changes.

    Host state is: Python's and NumPy's global generators; attributes of the network's modules and
    of their classes, and globals that their code names, if they are numbers, strings, containers
    (whose length counts) or random number generators.

    Args:
        net: The network.
        call: Runs its forward pass.

    Returns:
        The result of the call, and the names of what changed.

    Example:
        >>> import random
        >>> from torch import nn
        >>> class Net(nn.Module):
        ...     step = 0
        ...
        ...     def forward(self, x):
        ...         self.step += 1
        ...         return x * random.random()
        >>> net = Net()
        >>> changed_host_state(net, lambda: net(1.0))[1]
        ['random', 'step']
    """
    before = dict(_host_state(net))
    result = call()
    after = dict(_host_state(net))
    changed = [name for name, value in after.items() if before.get(name, _MISSING) != value]
    return result, sorted({name.rpartition(":")[2] for name in changed})


def attribute_state(owner: object) -> dict[str, Any]:
    """Returns the attributes of an object that are host state: values, lengths of containers."""
    return {name: state for key, v in vars(owner).items() for name, state in _watched(key, v)}


def generator_state() -> dict[str, Any]:
    """Returns the states of Python's and NumPy's global generators, by the name of the module."""
    return {
        "random": random.getstate(),
        "numpy.random": _generator_state(np.random.mtrand._rand),
    }


_MISSING = object()


def _host_state(net: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields name and value of everything watched; names are `scope:name`, unique by scope."""
    yield from ((f":{name}", state) for name, state in generator_state().items())
    functions: dict[Callable[..., Any], None] = {}
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            if not name.startswith("_") and name != "training":
                yield from _watched(f"{path}:{name}", value)
        for cls in type(module).__mro__:
            if not cls.__module__.startswith("torch."):
                for name, value in vars(cls).items():
                    if isinstance(value, types.FunctionType):
                        functions[value] = None
                    elif not name.startswith("_"):
                        yield from _watched(f"{cls.__module__}.{cls.__qualname__}:{name}", value)
    for function in functions:
        for name in function.__code__.co_names:
            if name in function.__globals__:
                yield from _watched(f"{function.__module__}:{name}", function.__globals__[name])


def _watched(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _PLAIN):
        yield name, value
    elif isinstance(value, _CONTAINERS):
        yield name, len(value)
    elif isinstance(value, (random.Random, np.random.Generator, np.random.RandomState)):
        yield name, _generator_state(value)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    bits = generator.bit_generator if isinstance(generator, np.random.Generator) else None
    state = generator.get_state(legacy=False) if bits is None else bits.state
    return repr(_comparable(state))


def _comparable(state: Any) -> Any:
    """Returns a generator's state with arrays as bytes."""
    if isinstance(state, dict):
        return {key: _comparable(value) for key, value in state.items()}
    return state.tobytes() if isinstance(state, np.ndarray) else state
