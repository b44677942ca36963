"""The patterns, one per module: what the backend replaces in a graph.

A pattern rewrites a graph of Dynamo or torch.export in place where its conditions hold, and reports
what it matched. A graph without a match stays unchanged. Every module here is imported, so that a
new pattern is found without being listed.
"""

from torch.fx import Graph

from mammoth_compiled.compiler.pattern import Match, lowerings, patterns
from mammoth_compiled.plugins import import_submodules

import_submodules(__name__, __path__)


def apply_patterns(graph: Graph) -> list[Match]:
    """Applies every pattern to a graph in place.

    Args:
        graph: A graph of Dynamo or torch.export.

    Returns:
        What was matched, replaced or not.
    """
    matches = [match for pattern in patterns() for match in pattern(graph)]
    graph.lint()
    return matches


def apply_lowerings(graph: Graph) -> None:
    """Applies every lowering to a graph of ATen operators in place."""
    for lowering in lowerings():
        lowering(graph)


__all__ = ["Match", "apply_lowerings", "apply_patterns"]
