"""Notices that the same kind of call is compiled again and again."""

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from mammoth_compiled.compiler import counters

# The second recompilation of a kind of call is reported. Three within so many calls are too many: a
# network that changes from task to task has one at a time.
REPORTED_RECOMPILATION = 2
MANY_RECOMPILATIONS = 3
FEW_CALLS = 50


@dataclass
class Outcome:
    """What one call of a compiled function did.

    Attributes:
        num_recompilations: How often this kind of call was recompiled so far.
        recompiles_often: Whether it was recompiled by this call and too often lately.
        guard: The guard whose failure caused the last recompilation, "" if there was none.
    """

    num_recompilations: int = 0
    recompiles_often: bool = False
    guard: str = ""


class RecompilationWatch:
    """Counts the recompilations of one network and warns about the second of a kind of call.

    Args:
        name: The name of the network, for the warning.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._num_calls: dict[Hashable, int] = defaultdict(int)
        # The calls that recompiled, by their number.
        self._recompiling_calls: dict[Hashable, list[int]] = defaultdict(list)

    @contextlib.contextmanager
    def watch(self, kind: Hashable) -> Iterator[Outcome]:
        """Surrounds a call of a compiled function.

        Args:
            kind: Calls of the same kind should share a graph.

        Yields:
            The outcome, filled when the block ends.
        """
        outcome = Outcome()
        num_graphs = counters.num_graphs()
        self._num_calls[kind] += 1
        yield outcome
        if not (num_new := counters.num_graphs() - num_graphs):
            return
        outcome.guard = counters.failed_guard(num_new)
        if not outcome.guard:
            return  # first compiled, or another part of a network with graph breaks
        calls = self._recompiling_calls[kind]
        calls.append(self._num_calls[kind])
        outcome.num_recompilations = len(calls)
        recent = calls[-MANY_RECOMPILATIONS:]
        outcome.recompiles_often = (
            len(recent) == MANY_RECOMPILATIONS and recent[-1] - recent[0] <= FEW_CALLS
        )
        if outcome.num_recompilations == REPORTED_RECOMPILATION:
            warnings.warn(
                f"{self._name} was recompiled a second time for the same kind of call, because "
                f"this guard failed: {outcome.guard}. Each recompilation takes seconds; keep "
                "values that change in tensors (buffers)",
                stacklevel=6,
            )
