"""What is replaced in a graph: the table of patterns, one a file.

A pattern takes a graph of Dynamo or of torch.export, rewrites it in place where its guards hold,
and says where it looked. A graph that no pattern fits stays as it is.
"""

from collections.abc import Callable, Iterable

from torch.fx import Graph

from mammoth_compiled.compiler.patterns.attention import attention
from mammoth_compiled.compiler.patterns.conv3x3 import conv3x3, lower_conv3x3
from mammoth_compiled.compiler.patterns.conv_relu_pool import conv_relu_pool
from mammoth_compiled.compiler.patterns.match import Match
from mammoth_compiled.compiler.patterns.projections import projections

PATTERNS: tuple[Callable[[Graph], Iterable[Match]], ...] = (
    conv_relu_pool,
    attention,
    projections,
    conv3x3,
)


def apply_patterns(graph: Graph) -> list[Match]:
    """Applies every pattern to a graph in place and returns where, and where not and why."""
    matches = [match for pattern in PATTERNS for match in pattern(graph)]
    graph.lint()
    return matches


__all__ = ["PATTERNS", "Match", "apply_patterns", "lower_conv3x3"]
