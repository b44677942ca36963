"""What compiling has cost this process: graphs, graph breaks, seconds."""

from dataclasses import dataclass

from torch._dynamo import utils

_state = {"graphs": 0}


@dataclass(frozen=True)
class Counters:
    """Sums since the process started; the difference of two tells what lies between.

    Attributes:
        graphs: Graphs that the backend compiled. In a run whose graphs never recompile this stops
            growing after the first task.
        graph_breaks: Places where Dynamo gave up and went on in Python.
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
    """Counts one graph."""
    _state["graphs"] += 1


def read() -> Counters:
    """Returns the sums up to now."""
    times = utils.compilation_time_metrics
    seconds = sum(
        sum(times.get(phase, ())) for phase in ("_compile.compile_inner", "backward._backward_impl")
    )
    return Counters(_state["graphs"], sum(utils.counters["graph_break"].values()), seconds)
