"""Everything that needs a GPU, in one go: tiles, training steps, tests, operations, exports.

    python benchmarks/gpu.py [--out DIR] [--budget 480] [--skip checks tune ...] [--dry]

Sections run in order of value, each in a process of its own with a time limit, so that one that
fails or hangs costs no other. Rows are written to `gpu.json` in DIR (default: benchmarks/results/)
after each section, also those of a section that was killed; the chip's table of tiles and winners
is written to kernels/tuned/ and to DIR. The exit code is 1 if anything failed. `--dry` runs every
section on the CPU with hardly any work, to try the script out. Without a GPU it prints and writes
the static table (`kernels_static.json`): registers, shared memory, occupancy, bytes, operations,
lower time bounds.
"""

import argparse
import functools
import importlib
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

if "--dry" in sys.argv:
    os.environ["MAMMOTH_DRY"] = "1"  # before the modules that read it

import torch
from common import RESULTS, environment, write_results
from gpu_process import run_apart, section_command, write_rows
from gpu_table import describe, failures_of, print_table
from gpu_timing import DEVICE, DRY, Context

import mammoth_compiled
from mammoth_compiled.engine.numerics import numerics
from mammoth_compiled.kernels.runtime.tiles import chip_name

OFFLINE = """On a machine without network, which has torch, torchvision, Triton and the other
dependencies: build the wheel where there is a network, carry it with the checkout, and run

  pip wheel --no-deps --wheel-dir DIR .                  # here
  pip install --no-deps --target SITE DIR/*.whl          # there
  PYTHONPATH=SITE python benchmarks/gpu.py --out OUT     # there, in the checkout

The checkout itself is not importable: its kernels become a part of the package when it is
installed. OUT holds gpu.json, gpu.log and the table of tiles; sections that had run are in
gpu.json if the command is killed. Pass --budget in seconds, about 30 less than the limit of the
machine."""


@dataclass(frozen=True)
class Section:
    """One part of the measurements.

    Attributes:
        function: Module and function, which yields rows.
        weight: Its share of the time that is left, against the other sections to come.
        about: What it does.
    """

    function: str
    weight: int
    about: str


# In order of value; what tunes comes before what is timed with it.
SECTIONS = {
    "limits": Section("gpu_limits:limits", 2, "peak rates"),
    "tiles": Section("gpu_tiles:compile_tiles", 10, "compile all tiles in parallel"),
    "tune": Section("tuning:tune", 8, "find the fastest tiles"),
    "ops": Section("gpu_ops:time_ops", 10, "all implementations of the operations"),
    "compile": Section("gpu_loop:compile_loops", 14, "compile the training steps in parallel"),
    "loops": Section("gpu_loop:time_loops", 24, "training steps against a plain loop"),
    "checks": Section("gpu_checks:run_checks", 16, "the tests that use a GPU"),
    "settings": Section("gpu_loop:time_settings", 5, "precision and determinism"),
    "nets": Section("gpu_nets:time_nets", 9, "networks by eager mode, Inductor and ours"),
    "data": Section("gpu_data:time_data", 3, "augmentation, replay and reservoir"),
    "export": Section("gpu_export:time_exports", 6, "AOTInductor bundles"),
    "seeds": Section("gpu_seeds:time_seeds", 6, "several seeds side by side"),
}
DRY_SECONDS = 60  # of a section, before it is asked to stop


def run_section(name, out, seconds):
    """Runs one section in this process; writes its rows as they come."""
    module, _, function = SECTIONS[name].function.partition(":")
    rows = getattr(importlib.import_module(module), function)
    with numerics(DEVICE, "high", deterministic=False):
        write_rows(out / f"{name}.part", rows(Context(out, time.monotonic() + seconds)))


def seconds_for(name, names, left):
    """Returns when a section should stop and when it is killed, in seconds from its start.

    Args:
        name: The section.
        names: It and those that come after it.
        left: Seconds that are left for all of them.
    """
    if DRY:
        return DRY_SECONDS, 5 * DRY_SECONDS
    share = left * SECTIONS[name].weight / sum(SECTIONS[n].weight for n in names)
    return share, min(1.25 * share + 10, left)


def run_sections(names, out, budget, write):
    """Runs sections in turn; calls `write` with the results so far after each.

    Returns:
        Section -> `rows`, `seconds`, and why it `failed`, "" if it did not.
    """
    results, end = {}, time.monotonic() + budget
    for position, name in enumerate(names):
        begin = time.monotonic()
        soft, hard = seconds_for(name, names[position:], end - begin)
        if hard < 5:
            rows, failed = [], "out of time"
        else:
            work = section_command(name, out, soft)
            if DRY and position:  # a fork need not import torch again
                work = functools.partial(run_section, name, out, soft)
            rows, failed = run_apart(work, out / f"{name}.part", out / "gpu.log", soft, hard)
        seconds = round(time.monotonic() - begin, 1)
        results[name] = {"rows": rows, "seconds": seconds, "failed": failed}
        print(f"{name}: {describe(results[name])}", flush=True)
        write(results)
    return results


def main():
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=OFFLINE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--budget", type=float, default=480, help="seconds for everything")
    parser.add_argument("--skip", nargs="*", default=[], choices=SECTIONS, metavar="SECTION")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=_sections())
    parser.add_argument("--dry", action="store_true", help="try it out on the CPU")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.section:
        run_section(args.section, args.out, args.budget)
        return 0
    if DRY and args.out == RESULTS:
        parser.error("--dry needs --out: its numbers are not results")
    if not DRY and not torch.cuda.is_available():
        from kernel_table import write_static_table

        write_static_table(args.out)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gpu.log").unlink(missing_ok=True)
    head = {"timed": not DRY, "mammoth_compiled": mammoth_compiled.__version__}
    if not DRY:
        head |= {"device": torch.cuda.get_device_name(), "chip": chip_name(DEVICE)}

    def write(results):
        write_results("gpu", {**head, "sections": results}, args.out)

    if DRY:
        importlib.import_module("torch._inductor.compile_fx")  # once, not in every fork
    names = [name for name in args.only or SECTIONS if name not in args.skip]
    results = run_sections(names, args.out, args.budget, write)
    print_table(results)
    print("written:", args.out / "gpu.json", environment()["gpu"])
    return int(any(failures_of(section) for section in results.values()))


def _sections():
    listed = "; ".join(f"{name}: {section.about}" for name, section in SECTIONS.items())
    return f"run these alone ({listed})"


if __name__ == "__main__":
    sys.exit(main())
