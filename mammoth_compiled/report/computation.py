"""Sections on how runs computed: throughput, compiler counters, and the list of runs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mammoth_compiled.html import Cell, Markup, table, tag
from mammoth_compiled.report.groups import Benchmark
from mammoth_compiled.report.measures import NONE, counted
from mammoth_compiled.report.runs import RecordedRun
from mammoth_compiled.report.statistics import summarize

# More runs are listed when the reader asks for them.
MAX_OPEN_RUNS = 12

Value = Callable[[RecordedRun], float | None]


def _note(section: str, key: str) -> Value:
    def read(run: RecordedRun) -> float | None:
        found = run.notes.get(section)
        value = found.get(key) if isinstance(found, Mapping) else None
        return float(value) if isinstance(value, (int, float)) else None

    return read


def _measure(key: str) -> Value:
    return lambda run: run.measures().get(key)


def _replayed(run: RecordedRun) -> float | None:
    total, replayed = _note("step", "total")(run), _note("step", "replayed")(run)
    return 100 * (replayed or 0.0) / total if total else None


# Title, digits, value of a run.
COLUMNS: Sequence[tuple[str, int, Value]] = (
    ("images/s", 0, _measure("images_per_s")),
    ("training s", 1, _measure("train_s")),
    ("compiling s", 1, _measure("compile_s")),
    ("evaluation s", 1, _measure("eval_s")),
    ("peak MB", 0, lambda run: run.measures().get("peak_memory", 0.0) / 1e6 or None),
    ("graphs", 0, _note("compiler", "graphs")),
    ("after task 1", 0, _note("compiler", "graphs_after_first_task")),
    ("graph breaks", 0, _note("compiler", "graph_breaks")),
    ("replayed %", 1, _replayed),
    ("syncs/step", 1, _note("step", "host_syncs_per_step")),
)


def throughput(benchmark: Benchmark) -> Markup:
    """Returns throughput, times and compiler counters, the mean over the runs of each method."""
    columns = [
        (title, digits, value)
        for title, digits, value in COLUMNS
        if any(value(run) is not None for run in benchmark.runs)
    ]
    rows = []
    for method in benchmark.methods:
        cells = [Cell(method.label)]
        for _, digits, value in columns:
            found = [v for run in method.complete if (v := value(run)) is not None]
            mean = summarize(found).mean
            cells.append(Cell(f"{mean:,.{digits}f}" if found else NONE, sort=mean))
        rows.append(cells)
    return tag(
        "section",
        tag("h3", "Throughput and compilation"),
        tag(
            "p",
            "Images trained on per second without compilation; seconds of a run; graphs that the "
            "compiler made, in all and after the first task. Compare times on one machine only: "
            + "; ".join(_hardware(benchmark.runs))
            + ".",
            class_="note",
        ),
        tag("div", table(["method", *(c[0] for c in columns)], rows, sortable=True), class_="wide"),
        _guards(benchmark),
        class_="card",
    )


def _guards(benchmark: Benchmark) -> Markup | None:
    """Returns the guards that failed after the first task; None if there were none."""
    found: dict[tuple[str, str], None] = {}
    for method in benchmark.methods:
        for run in method.complete:
            compiler = run.notes.get("compiler")
            guards = compiler.get("guards_after_first_task") if isinstance(compiler, dict) else ()
            found |= dict.fromkeys((method.label, str(guard)) for guard in guards or ())
    if not found:
        return None
    items = [tag("li", label, ": ", tag("code", guard)) for label, guard in found]
    title = "Guards that failed after the first task, so that a graph was compiled again:"
    return tag("div", tag("p", title, class_="note"), tag("ul", *items))


def _hardware(runs: Sequence[RecordedRun]) -> list[str]:
    """Returns the machines of the runs, each once."""
    found: dict[str, None] = {}
    for run in runs:
        about = run.content.get("hardware") or {}
        torch = (run.content.get("versions") or {}).get("torch", "")
        what = about.get("gpu") or (
            f"CPU {about.get('machine', '')} {about.get('cpu_capability', '')}, "
            f"{counted(about.get('threads', 1), 'thread')}"
        )
        found[f"{what}, torch {torch}" if torch else what] = None
    return list(found)


def list_of_runs(benchmark: Benchmark) -> Markup:
    """Returns all runs with their files, seeds and final accuracies."""
    rows: list[list[Any]] = []
    for method in benchmark.methods:
        for run in method.runs:
            measures = run.measures()
            remarks = [f"interrupted after {len(run.class_il)} tasks"] if run.interrupted else []
            remarks += [str(run.config["notes"])] if run.config.get("notes") else []
            rows.append(
                [
                    Cell(run.name, title=str(run.path)),
                    method.label,
                    Cell(NONE if run.seed is None else run.seed, sort=run.seed),
                    *(_percent(measures.get(key)) for key in ("class_il", "task_il")),
                    "; ".join(remarks),
                ]
            )
    head = ["run", "method", "seed", "Class-IL %", "Task-IL %", "remarks"]
    return tag(
        "section",
        tag("h3", "Runs"),
        tag(
            "details",
            tag("summary", counted(len(rows), "run")),
            tag("div", table(head, rows, sortable=True), class_="wide text"),
            open=len(rows) <= MAX_OPEN_RUNS,
        ),
        class_="card",
    )


def _percent(value: float | None) -> Cell:
    return Cell(NONE) if value is None else Cell(f"{100 * value:.2f}", sort=value)
