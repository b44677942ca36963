"""The page of a report."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import write_atomically
from mammoth_compiled.html import Markup, page, tag
from mammoth_compiled.report import accuracy, comparison, computation
from mammoth_compiled.report.groups import MAX_METHODS, Benchmark, group
from mammoth_compiled.report.measures import counted
from mammoth_compiled.report.runs import RecordedRun, read_runs


def write_report(
    runs: Iterable[str | os.PathLike[str]], path: str | os.PathLike[str], title: str = ""
) -> Path:
    """Writes a report on runs as one HTML file that loads nothing.

    Args:
        runs: Run folders, results files, or folders that contain runs.
        path: The file; it is overwritten.
        title: Its title; default: the models and the dataset.

    Returns:
        The file.

    Raises:
        MammothError: If a run cannot be read, none has a result, or the file cannot be written.
    """
    target = Path(path)
    write_atomically(target, render(read_runs(runs), title).encode())
    return target


def render(runs: Sequence[RecordedRun], title: str = "") -> str:
    """Returns the page of a report; see `write_report`.

    Raises:
        MammothError: If no run has a result.
    """
    benchmarks = grouped(runs)
    title = title or _title(benchmarks)
    links = [
        tag("a", benchmark.dataset, href=f"#benchmark-{i}")
        for i, benchmark in enumerate(benchmarks)
    ]
    return page(
        title,
        tag(
            "header",
            tag("h1", title),
            tag("p", _subtitle(runs)),
            tag("nav", *links) if len(links) > 1 else None,
        ),
        *(_section(benchmark, i, len(links) > 1) for i, benchmark in enumerate(benchmarks)),
        tag("footer", "Written by mammoth_compiled.report. Accuracies are in percent."),
    )


def grouped(runs: Sequence[RecordedRun]) -> list[Benchmark]:
    """Groups runs by dataset and method; see `group`.

    Raises:
        MammothError: If no run has a result.
    """
    benchmarks = group(runs)
    if not benchmarks:
        raise MammothError("none of the runs finished a task, so there is nothing to report")
    return benchmarks


def _section(benchmark: Benchmark, index: int, has_title: bool) -> Markup:
    best = benchmark.best()
    number = len(benchmark.methods)
    cut = f"Figures and tests show the best {MAX_METHODS} of {number} methods (Class-IL)."
    sections = [
        comparison.leaderboard(benchmark),
        tag("p", cut, class_="note") if number > MAX_METHODS else None,
        accuracy.over_tasks(best),
        accuracy.within_tasks(best),
        accuracy.forgetting_section(best),
        accuracy.matrices(best),
        accuracy.confusion_section(best),
        comparison.paired_tests(best),
        computation.throughput(benchmark),
        comparison.configuration(benchmark),
        computation.list_of_runs(benchmark),
    ]
    heading = tag("h2", benchmark.dataset) if has_title else None
    return tag("div", heading, *sections, id=f"benchmark-{index}")


def _title(benchmarks: Sequence[Benchmark]) -> str:
    models = dict.fromkeys(
        str(run.config.get("model")) for benchmark in benchmarks for run in benchmark.runs
    )
    datasets = ", ".join(benchmark.dataset for benchmark in benchmarks)
    names = ", ".join(models) if len(models) <= 3 else f"{len(models)} models"
    return f"{names} on {datasets}"


def _subtitle(runs: Sequence[RecordedRun]) -> str:
    seeds = {run.seed for run in runs if run.seed is not None}
    tasks = {run.num_tasks for run in runs if run.num_tasks}
    parts = [counted(len(runs), "run"), counted(len(seeds), "seed")]
    if len(tasks) == 1:
        parts.append(counted(tasks.pop(), "task"))
    if interrupted := sum(run.interrupted for run in runs):
        parts.append(f"{interrupted} interrupted")
    return " · ".join(parts)
