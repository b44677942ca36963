"""Runs methods over buffers and seeds, and compares them with published figures.

python benchmarks/reproduce.py [--protocols fmnist] [--methods er derpp] [--budget SECONDS]

Every run has a folder; the same command continues where it was stopped and skips what has
finished. The results go to `benchmarks/results/reproduction.json` and `docs/reproduction.md`.
`--anew` repeats runs whose results are in that file already, with the settings of today.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from common import RESULTS, environment, mean_and_deviation
from orderings import check
from protocols import METHODS, PROTOCOLS, Protocol
from reproduction_page import render

from mammoth_compiled import get_avail_args
from mammoth_compiled.config import ComputeConfig, FilesConfig, LoggingConfig
from mammoth_compiled.config.experiments import resolve_experiments
from mammoth_compiled.errors import MammothError
from mammoth_compiled.sweep.layout import Layout, available_cores
from mammoth_compiled.sweep.runs import remove_checkpoints, run_trials
from mammoth_compiled.sweep.trial import Trial, make_trials

# Where a run writes and on what it computes.
_DECIDE_NOTHING = {
    "seed",
    *(entry.name for kind in (ComputeConfig, FilesConfig, LoggingConfig) for entry in fields(kind)),
} - {"amp"}
PAGE = Path(__file__).resolve().parents[1] / "docs" / "reproduction.md"


def plan(
    protocol: Protocol,
    methods: Sequence[str],
    seeds: int,
    directory: Path,
    given: dict[str, Any] | None = None,
    buffers: Sequence[int] | None = None,
) -> list[Trial]:
    """Returns the runs of a protocol; the first seed of everything comes first.

    Args:
        protocol: The protocol.
        methods: Names of the methods, the most important first.
        seeds: Number of seeds.
        directory: Where the run folders are.
        given: Further arguments of every run.
        buffers: Sizes of the buffer, by default those of the protocol.
    """
    trials = []
    sizes = buffers or protocol.buffers
    for seed in range(seeds):
        for size in sizes:
            for method in methods:
                has_buffer = "buffer_size" in get_avail_args(model=method)[0]
                if not has_buffer and size != sizes[0]:
                    continue
                values = {
                    "model": method,
                    "dataset": protocol.dataset,
                    "backbone": protocol.backbone,
                    "seed": seed,
                    "resume": True,
                    **({"buffer_size": size} if has_buffer else {}),
                    **protocol.arguments,
                    **protocol.method_arguments.get(method, {}),
                    **(given or {}),
                }
                args = resolve_experiments([], values)[0].args
                names = ["model", *(["buffer_size"] if has_buffer else []), "seed"]
                trials += make_trials([args], directory, names)
    return trials


class Record(NamedTuple):
    """The average accuracies of one run after the last task."""

    class_il: float
    task_il: float


def read_records(rows: Sequence[dict[str, Any]], trials: Sequence[Trial]) -> dict[Path, Record]:
    """Returns, by run folder, what an earlier summary says of runs with the same settings."""
    known = {
        (row["method"], row["buffer_size"], seed): (row["settings"], Record(*figures))
        for row in rows
        for seed, *figures in zip(
            row["seeds"], row["class_il"]["values"], row["task_il"]["values"], strict=True
        )
    }
    records = {}
    for trial in trials:
        settings, record = known.get((*_key(trial), trial.args.seed), (None, None))
        # What the package has gained since then does nothing by default.
        if record is not None and settings.items() <= _settings(trial).items():
            records[trial.folder] = record
    return records


def summarize(
    protocol: Protocol, trials: Sequence[Trial], records: Mapping[Path, Record] | None = None
) -> list[dict[str, Any]]:
    """Returns one row per method and buffer size that has a finished run, in order of METHODS.

    Args:
        protocol: The protocol.
        trials: Its runs.
        records: By run folder: results of runs that have none here.
    """
    finished: dict[tuple[str, int | None], list[tuple[Trial, Record]]] = defaultdict(list)
    for trial in trials:
        results = trial.finished()
        record = (records or {}).get(trial.folder)
        if results is not None:
            summary = results.summary()
            record = Record(summary["class_il"], summary["task_il"])
        if record is not None:
            finished[_key(trial)].append((trial, record))
    rows = []
    for method, size in sorted(finished, key=lambda key: (METHODS.index(key[0]), key[1] or 0)):
        runs = finished[method, size]
        published = (protocol.published or {}).get((method, size))
        rows.append(
            {
                "method": method,
                "buffer_size": size,
                "seeds": [trial.args.seed for trial, _ in runs],
                "class_il": mean_and_deviation([record.class_il for _, record in runs]),
                "task_il": mean_and_deviation([record.task_il for _, record in runs]),
                "published": None if published is None else published._asdict(),
                "settings": _settings(runs[0][0]),
            }
        )
    return rows


def _key(trial: Trial) -> tuple[str, int | None]:
    return trial.args.model, getattr(trial.args, "buffer_size", None)


def _settings(trial: Trial) -> dict[str, Any]:
    """Returns the arguments that decide a result, besides the seed."""
    return {
        name: value
        for name, value in sorted(vars(trial.args).items())
        if name not in _DECIDE_NOTHING
    }


def _read() -> dict[str, Any]:
    path = RESULTS / "reproduction.json"
    return json.loads(path.read_text()) if path.is_file() else {"protocols": {}}


def add_environment(earlier: Sequence[dict[str, Any]], now: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns where the runs of a table were computed: once per machine and version of PyTorch."""

    def computes_alike(other: dict[str, Any]) -> bool:
        return all(other[key] == now[key] for key in ("cpu", "cores", "gpu", "torch"))

    return [*(entry for entry in earlier if not computes_alike(entry)), now]


def write(
    name: str, protocol: Protocol, rows: list[dict[str, Any]], environments: list[dict[str, Any]]
) -> None:
    """Replaces a protocol in the JSON file, and writes the page.

    Args:
        name: Name of the protocol.
        protocol: The protocol.
        rows: Its rows, as `summarize` returns them.
        environments: Where they were computed, see `common.environment`.
    """
    path, results = RESULTS / "reproduction.json", _read()
    results["protocols"][name] = {
        "description": protocol.description,
        "dataset": protocol.dataset,
        "backbone": protocol.backbone,
        "arguments": protocol.arguments,
        "method_arguments": protocol.method_arguments,
        "environments": environments,
        "rows": rows,
        "orderings": check(rows),
        "notes": protocol.notes,
    }
    order = [known for known in PROTOCOLS if known in results["protocols"]]
    results["protocols"] = {known: results["protocols"][known] for known in order}
    path.write_text(json.dumps(results, indent=2) + "\n")
    peers = RESULTS / "peers.json"
    PAGE.write_text(render(results, json.loads(peers.read_text()) if peers.is_file() else None))
    print(f"written: {path}, {PAGE}")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    result = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    result.add_argument("--protocols", nargs="+", choices=list(PROTOCOLS), default=["fmnist"])
    result.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    result.add_argument("--buffers", nargs="+", type=int, help="Sizes (default: the protocol's).")
    result.add_argument("--seeds", type=int, default=3, help="Number of seeds (default: 3).")
    result.add_argument(
        "--budget", type=float, help="Start no run after this many seconds; 0 writes the page."
    )
    result.add_argument(
        "--quick", action="store_true", help="One seed on the packaged images, nothing written."
    )
    result.add_argument("--anew", action="store_true", help="Repeat runs whose results are known.")
    result.add_argument("--workers", type=int, default=1, help="Runs at the same time.")
    result.add_argument(
        "--threads", type=int, help="CPU threads of each run (default: its share of the cores)."
    )
    result.add_argument("--device", help="Device of the runs (default: as in any run).")
    result.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="Run folders.")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what has not finished, prints the orderings and returns the exit code."""
    args = parser().parse_args(argv)
    deadline = time.monotonic() + (float("inf") if args.budget is None else args.budget)
    names, seeds = (["fmnist-mini"], 1) if args.quick else (args.protocols, args.seeds)
    given = {"device": args.device} if args.device else {}
    code = 0

    def in_time(trials: Sequence[Trial]) -> Iterator[Trial]:
        for trial in trials:
            if time.monotonic() >= deadline:
                print("the budget is spent: the same command runs the rest", flush=True)
                return
            yield trial

    def tidy(trial: Trial, event: Any) -> bool:
        if event.kind == "finished":
            remove_checkpoints(trial)
        return True

    for name in names:
        protocol = PROTOCOLS[name]
        trials = plan(protocol, args.methods, seeds, args.out / name, given, args.buffers)
        every = plan(protocol, METHODS, max(seeds, 3), args.out / name, given)
        known = not args.anew and not args.quick and _read()["protocols"].get(name)
        records = read_records(known["rows"], every) if known else {}
        trials = [trial for trial in trials if trial.folder not in records]
        print(f"{name}: {len(trials)} runs in {args.out / name}", flush=True)
        layout = Layout(args.workers, args.threads or max(1, available_cores() // args.workers))
        code = code or run_trials(in_time(trials), layout, (), len(trials), tidy)
        rows = summarize(protocol, every, records)
        for entry in check(rows):
            size = "" if entry["buffer_size"] is None else f", buffer {entry['buffer_size']}"
            verdict = "holds" if entry["holds"] else "DOES NOT HOLD"
            print(f"{verdict}: {entry['claim']}{size} ({entry['difference']:+.2f} points)")
        if rows and not args.quick:
            earlier = known["environments"] if records else []
            has_runs_here = any(trial.finished() for trial in every)
            found = add_environment(earlier, environment()) if has_runs_here else earlier
            write(name, protocol, rows, found)
        if code:
            return code
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MammothError as error:
        sys.exit(f"error: {error}")
