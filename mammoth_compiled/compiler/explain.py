"""Says what the compiler makes of a backbone: graphs, breaks, patterns matched and not."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mammoth_compiled.compiler.patterns import Match, apply_patterns


@dataclass(frozen=True)
class Explanation:
    """What became of one call.

    Attributes:
        graphs: Graphs that the call was cut into; 1 is best.
        breaks: Why it was cut, with the place in the user's code.
        matches: Where patterns were looked for.
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
            verdict = f"replaced by {match.by}"
            if match.reason:
                verdict = f"left as it is, because {match.reason}"
            lines.append(f"  {match.pattern} at `{match.place}`: {verdict}")
        if not self.matches:
            lines.append("  no pattern has a place here")
        return "\n".join(lines)


def explain(function: Callable[..., Any], *args: Any) -> Explanation:
    """Traces a call as `torch.compile` would, without compiling it.

    Args:
        function: A module or a function.
        *args: What to call it with; it is run once.
    """
    # What Dynamo logs of a break is in the result, in a line.
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
    reasons = tuple(_reason(reason) for reason in traced.break_reasons)
    return Explanation(traced.graph_count, reasons, tuple(matches), operations)


def _reason(reason: Any) -> str:
    text = str(reason.reason).strip().splitlines()[0]
    places = [
        frame for frame in reason.user_stack if "mammoth_compiled/engine" not in frame.filename
    ]
    return f"{text} ({places[-1].filename}:{places[-1].lineno})" if places else text
