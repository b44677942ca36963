"""Start-up time: `--help` and `--list`, the import, and the first compiled step of a run.

    python benchmarks/start_up.py [--parts help runs] [--rounds 7] [--warm 3]
                                  [--cases er:cnn derpp:reduced-resnet18]

Every measurement is a new process. `help` times what each command answers without a run, and writes
`start_up_help.json`. `runs` times imports and runs, and writes `start_up.json`. A run on
seq-fmnist-mini stops after its first compiled step, at the earliest after the third step; seconds
count from the start of the process. `cold` is a run with an empty Inductor cache; `warm` runs
follow it with the same cache.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from common import ratio, spread, write_results

PLAIN, OURS = "torch, torchvision", "mammoth_compiled"
IMPORT = """
import time
start = time.perf_counter()
import {}
print(time.perf_counter() - start)
"""

HELP = {
    "run --help": ("mammoth_compiled.run", "--help"),
    "run --list": ("mammoth_compiled.run", "--list"),
    "export --help": ("mammoth_compiled.export", "--help"),
    "report --help": ("mammoth_compiled.report", "--help"),
    "sweep --help": ("mammoth_compiled.sweep", "--help"),
    "compat --help": ("mammoth_compiled.compat", "--help"),
}

# The parent passes the start time; the monotonic clock of the system is the same in both processes.
DRIVER = """
import json, sys, time
marks = {}

def mark(name):
    marks[name] = time.monotonic() - float(sys.argv[1])

from mammoth_compiled.compiler import counters
from mammoth_compiled.models import ContinualModel
from mammoth_compiled.run import run
from torch._dynamo.utils import counters as torch_counters

mark("imported_s")
observe = ContinualModel.observe
steps = 0

def timed(*args, **kwargs):
    global steps
    loss = observe(*args, **kwargs)
    steps += 1
    if steps in (1, 3):
        mark({1: "first_step_s", 3: "third_step_s"}[steps])
    found = counters.read()
    if found.graphs and "first_compiled_step_s" not in marks:
        marks["first_compiled_step"] = steps
        mark("first_compiled_step_s")
    if found.graphs and steps >= 3:
        hits = torch_counters["aot_autograd"]["autograd_cache_hit"]
        marks.update(graphs=found.graphs, from_cache=hits, compiling_s=found.seconds)
        print("\\n" + json.dumps(marks))
        sys.exit()
    return loss

ContinualModel.observe = timed
run(sys.argv[2:])
sys.exit("no step was compiled")
"""


def run_python(code: str, *argv: str, **environment: str) -> str:
    """Runs code in a new process and returns the last line it prints."""
    completed = subprocess.run(
        [sys.executable, "-c", code, *argv],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        raise RuntimeError(completed.stderr)
    return completed.stdout.splitlines()[-1]


def helps(rounds: int) -> dict[str, Any]:
    """Times what commands print without a run, from start to end of the process, interleaved."""

    def seconds(module: str, flag: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", module, flag], capture_output=True, check=True)
        return time.perf_counter() - start

    for words in HELP.values():
        seconds(*words)  # from now on the files are in the page cache
    times: dict[str, list[float]] = {name: [] for name in HELP}
    for _ in range(rounds):
        for name, words in HELP.items():
            times[name].append(seconds(*words))
    return {name: spread(found) for name, found in times.items()}


def imports(rounds: int) -> dict[str, Any]:
    """Times both imports, interleaved."""
    for name in (PLAIN, OURS):
        run_python(IMPORT.format(name))  # from now on the files are in the page cache
    times: dict[str, list[float]] = {PLAIN: [], OURS: []}
    for _ in range(rounds):
        for name, found in times.items():
            found.append(float(run_python(IMPORT.format(name))))
    return {
        "torch_torchvision_s": spread(times[PLAIN]),
        "mammoth_compiled_s": spread(times[OURS]),
        "ratio": ratio(times, OURS, PLAIN),
    }


def first_steps(case: str, cache: str) -> dict[str, Any]:
    """Runs a case up to its first compiled step; returns seconds since the start of the process."""
    model, backbone = case.split(":")
    argv = ["--model", model, "--backbone", backbone, "--dataset", "seq-fmnist-mini"]
    argv += ["--seed", "0", "--compile", "on"]
    found = run_python(DRIVER, str(time.monotonic()), *argv, TORCHINDUCTOR_CACHE_DIR=cache)
    marks: dict[str, Any] = json.loads(found)
    print(f"  {case}: first compiled step after {marks['first_compiled_step_s']:.1f} s", flush=True)
    return marks


def runs(cases: list[str], warm: int) -> dict[str, Any]:
    """Measures the first run of each case, then interleaved runs with the cache of the first."""
    with tempfile.TemporaryDirectory() as root:
        cache = {case: os.path.join(root, case.replace(":", "_")) for case in cases}
        cold = {case: first_steps(case, cache[case]) for case in cases}
        found: dict[str, list[dict[str, Any]]] = {case: [] for case in cases}
        for _ in range(warm):
            for case in cases:
                found[case].append(first_steps(case, cache[case]))
    return {
        case: {
            "cold": cold[case],
            "warm": {
                key: spread([marks[key] for marks in found[case]])
                for key in cold[case]
                if key.endswith("_s")
            },
            "warm_graphs": found[case][0]["graphs"],
            "warm_from_cache": min(marks["from_cache"] for marks in found[case]),
        }
        for case in cases
    }


def measure_help(rounds: int) -> None:
    """Measures `--help` and `--list`, and writes `start_up_help.json`."""
    commands = helps(rounds)
    for name, found in commands.items():
        print(
            f"{name}: {found['median']:.2f} s [{found['p20']:.2f}, {found['p80']:.2f}], "
            f"n = {found['n']}",
            flush=True,
        )
    print("written:", write_results("start_up_help", {"commands": commands}))


def measure_imports(rounds: int) -> dict[str, Any]:
    """Measures both imports."""
    found = imports(rounds)
    print(
        f"import: {found['mammoth_compiled_s']['median']:.2f} s, {PLAIN} "
        f"{found['torch_torchvision_s']['median']:.2f} s, ratio {found['ratio']['median']:.2f} "
        f"[{found['ratio']['p20']:.2f}, {found['ratio']['p80']:.2f}]",
        flush=True,
    )
    return found


def measure_runs(cases: list[str], warm: int) -> dict[str, Any]:
    """Measures the first compiled steps."""
    found = runs(cases, warm)
    for case, r in found.items():
        first = r["warm"]["first_compiled_step_s"]
        print(
            f"{case}: first compiled step (number {r['cold']['first_compiled_step']}) after "
            f"{r['cold']['first_compiled_step_s']:.1f} s cold, {first['median']:.1f} s "
            f"[{first['p20']:.1f}, {first['p80']:.1f}] warm, {r['warm_from_cache']} of "
            f"{r['warm_graphs']} graphs from the cache"
        )
    return found


def main() -> None:
    """Measures the parts that are asked for, and writes their files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ("help", "runs")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--cases", nargs="+", default=["er:cnn", "derpp:reduced-resnet18"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--name", default="start_up")
    args = parser.parse_args()
    if "help" in args.parts:
        measure_help(args.rounds)
    if "runs" in args.parts:
        results = {"import": measure_imports(args.rounds)}
        results["runs"] = measure_runs(args.cases, args.warm)
        print("written:", write_results(args.name, results))


if __name__ == "__main__":
    main()
