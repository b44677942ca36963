"""Explains what the compiler does with a backbone: graphs, graph breaks, matched patterns."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mammoth_compiled.compiler.pattern import effect_of
from mammoth_compiled.compiler.patterns import Match, apply_patterns


@dataclass(frozen=True)
class Explanation:
    """What became of one call.

    Attributes:
        graphs: Number of graphs that Dynamo captured; 1 is best.
        breaks: Reason of every graph break, with its place in the user code.
        matches: Subgraphs that patterns matched.
        operations: Number of operations in all graphs.
    """

    graphs: int
    breaks: tuple[str, ...]
    matches: tuple[Match, ...]
    operations: int

    def __str__(self) -> str:
        lines = [f"{self.graphs} graph(s) of {self.operations} operations"]
        lines += [f"  graph break: {reason}" for reason in self.breaks]
        for match in self.matches:
            effect = f": {effect_of(match)}" if effect_of(match) else ""
            verdict = f"replaced by {match.replacement}{effect}"
            if match.reason:
                verdict = f"left unchanged, because {match.reason}"
            lines.append(f"  {match.pattern} at `{match.node}`: {verdict}")
        if not self.matches:
            lines.append("  no pattern matches")
        return "\n".join(lines)


def explain(function: Callable[..., Any], *args: Any) -> Explanation:
    """Traces a call as `torch.compile` would, without compiling it.

    Args:
        function: A module or a function.
        *args: Its arguments; it is run once.
    """
    # The result reports graph breaks in one line each; Dynamo's own log of them is long.
    logger = logging.getLogger("torch._dynamo")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        traced = torch._dynamo.explain(function)(*args)
    finally:
        logger.setLevel(level)
    matches: list[Match] = []
    operations = 0
    for graph in traced.graphs:
        operations += sum(node.op.startswith("call") for node in graph.graph.nodes)
        matches += apply_patterns(graph.graph)
    breaks = tuple(_break_reason(reason) for reason in traced.break_reasons)
    return Explanation(traced.graph_count, breaks, tuple(matches), operations)


def _break_reason(reason: Any) -> str:
    text = str(reason.reason).strip().splitlines()[0]
    frames = [
        frame for frame in reason.user_stack if "mammoth_compiled/engine" not in frame.filename
    ]
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text
