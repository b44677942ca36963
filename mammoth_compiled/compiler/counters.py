"""Counts what compilation has cost this process: graphs, graph breaks, seconds."""

from dataclasses import dataclass

from torch._dynamo import utils

_state = {"graphs": 0}


@dataclass(frozen=True)
class Counters:
    """Totals since the process started; subtract two to get what happened in between.

    Attributes:
        graphs: Graphs that the backend compiled. Without recompilations this stops growing after
            the first task.
        graph_breaks: Places where Dynamo stopped tracing and fell back to Python.
        seconds: Time spent tracing and compiling, forward and backward, s.
    """

    graphs: int = 0
    graph_breaks: int = 0
    seconds: float = 0.0

    def __sub__(self, other: "Counters") -> "Counters":
        return Counters(
            self.graphs - other.graphs,
            self.graph_breaks - other.graph_breaks,
            self.seconds - other.seconds,
        )


def count_graph() -> None:
    """Counts one compiled graph."""
    _state["graphs"] += 1


def num_graphs() -> int:
    """Returns how many graphs the backend compiled up to now."""
    return _state["graphs"]


def failed_guard(num_graphs: int) -> str:
    """Returns the first guard whose failure caused one of the last compilations, "" if none did."""
    return next(iter(failed_guards(num_graphs)), "")


def failed_guards(num_graphs: int) -> list[str]:
    """Returns the guards whose failure caused the last compilations, each once.

    Args:
        num_graphs: How many compilations to look at. Dynamo remembers the last 64.
    """
    found: dict[str, None] = {}
    for metrics in utils.get_compilation_metrics()[-num_graphs:] if num_graphs else ():
        if metrics.recompile_reason:
            first_line = metrics.recompile_reason.splitlines()[0]
            guard = first_line.partition("#")[0].partition(": ")[2].strip() or first_line
            found[guard] = None
    return list(found)


def read() -> Counters:
    """Returns the totals up to now."""
    times = utils.compilation_time_metrics
    seconds = sum(
        sum(times.get(phase, ())) for phase in ("_compile.compile_inner", "backward._backward_impl")
    )
    return Counters(_state["graphs"], sum(utils.counters["graph_break"].values()), seconds)
