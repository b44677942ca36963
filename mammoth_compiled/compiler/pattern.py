"""How a pattern is defined and found: registered functions that rewrite a graph."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph

# Reasons why a subgraph is left alone. Kernels are compiled for every size but the batch's.
DYNAMIC_SIZE = "a size other than the batch's differs from call to call"
FASTER_IN_TORCH = "torch's own kernels were measured to be faster"


@dataclass(frozen=True)
class Match:
    """A subgraph that a pattern matched, whether it was replaced or not.

    Attributes:
        pattern: Name of the pattern.
        node: Name of the last node of the subgraph.
        reason: Why it was left alone; empty if it was replaced.
        replacement: What replaced it.
    """

    pattern: str
    node: str
    reason: str = ""
    replacement: str = ""


# Rewrites a graph of Dynamo or torch.export in place and yields what it matched.
PatternFunction = Callable[[Graph], Iterable[Match]]
# Rewrites a graph of ATen operators, after AOTAutograd, in place.
Lowering = Callable[[Graph], None]

_patterns: list[tuple[int, str, PatternFunction]] = []
_lowerings: list[Lowering] = []
_traced_functions: set[str] = set()
_effects: dict[str, str] = {}


def register_pattern(
    *, priority: int, functions: Iterable[Callable[..., Any]] = (), effect: str = ""
) -> Callable[[PatternFunction], PatternFunction]:
    """Returns a decorator that registers a pattern.

    Args:
        priority: Patterns are applied from high to low; one that matches a larger subgraph comes
            before one that matches a part of it.
        functions: Python functions that the pattern inserts as nodes. Inductor caches graphs with
            such nodes only if they are declared safe to cache.
        effect: What a replacement saves, for `--explain`.
    """

    def register(pattern: PatternFunction) -> PatternFunction:
        _patterns.append((-priority, pattern.__name__, pattern))
        _effects[pattern.__name__.replace("_", "-")] = effect
        _traced_functions.update(f"{f.__module__}.{f.__name__}" for f in functions)
        return pattern

    return register


def register_lowering(lowering: Lowering) -> Lowering:
    """Registers a function that rewrites graphs of ATen operators, forward and backward."""
    _lowerings.append(lowering)
    return lowering


def patterns() -> list[PatternFunction]:
    """Returns the registered patterns in the order in which they are applied."""
    return [pattern for *_, pattern in sorted(_patterns, key=lambda entry: entry[:2])]


def effect_of(match: Match) -> str:
    """Returns what the replacement of a match saves, "" if its pattern does not say so."""
    return _effects.get(match.pattern, "")


def lowerings() -> list[Lowering]:
    """Returns the registered lowerings."""
    return list(_lowerings)


def traced_functions() -> list[str]:
    """Returns the qualified names of the Python functions that patterns insert."""
    return sorted(_traced_functions)
