"""Hostile surroundings: outputs that cannot be written, full disks, signals."""

import contextlib
import ctypes
import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile_inputs.binaries import RUN, SAVED
from hostile_inputs.harness import ACCEPTED, EITHER, REFUSED, TEMPORARY, Input, command
from mammoth_compiled.checkpoint import read_checkpoint
from mammoth_compiled.errors import MammothError
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.results.schema import read_results_file
from mammoth_compiled.signals import end_process

SAVES = ["--savecheck=task", "--checkpoint_path=saved", "--results_path=results.json"]
EXPORTS = ["--export=bundle", "--formats=safetensors"]


def wrong_files() -> str:
    """Returns what is wrong with the files of a run in the working directory, "" if nothing is."""
    wrong = []
    for path in Path().rglob("*"):
        try:
            if path.suffix == ".pt" and not path.name.startswith("."):
                read_checkpoint(path)
            elif path.name == "results.json":
                read_results_file(path)
            elif path.name == "manifest.json":
                for file in read_manifest(path.parent).files:
                    check_file(path.parent, file)
        except MammothError as error:
            wrong.append(str(error))
    return "; ".join(wrong)


def has_results() -> Callable[[], str]:
    """Returns a function that says whether the results of all five tasks were written."""

    def check() -> str:
        rescued = Path(tempfile.gettempdir()).glob("mammoth-results-*/*")
        for path in (Path("results.json"), *rescued):
            with contextlib.suppress(MammothError):
                if len(read_results_file(path)["class_il"]) == 5:
                    return wrong_files()
        return "the results are lost"

    return check


# --- Outputs --------------------------------------------------------------------------------------

NOWHERE = ("/dev/full/x", "/dev/null/x", "/proc/x", "file/x", "/sys/x", "loop/x")
STANDARD_OUTPUT = {
    "run": RUN,
    "run --list": ["--list"],
    "run --help": ["--help"],
    "run --explain": [*RUN, "--explain"],
    "run --show_config": [*RUN, "--show_config"],
    "run --dry_run": [*RUN, "--dry_run"],
    "sweep": ["s.yaml", "--workers=1"],
    "sweep --dry_run": ["s.yaml", "--dry_run"],
    "sweep --help": ["--help"],
    "report": ["results.json"],
    "report --help": ["--help"],
    "compat": ["m.py"],
    "compat --help": ["--help"],
    "export --help": ["--help"],
    "export show": ["show", "bundle"],
    "export verify": ["verify", "bundle"],
    "export verify --help": ["verify", "--help"],
    "export update": ["update", "bundle", "c.pt"],
    "export": ["c.pt", "other", "--formats=safetensors"],
}


def outputs(files: Path) -> Iterator[Input]:
    """Yields runs and commands whose outputs cannot be written."""

    def write() -> None:
        tempfile.tempdir = os.path.abspath("../temporary")
        os.mkdir(tempfile.tempdir)
        Path("file").write_text("")
        Path("loop").symlink_to("loop")

    for name in ("results_path", "out", "log_dir", "checkpoint_path", "export"):
        for place in NOWHERE:
            call = command("run", *RUN, f"--{name}={place}", "--savecheck=last")
            yield Input("outputs", f"--{name}={place}", call, REFUSED, write)
    for name in ("html", "config"):
        call = command("run", *RUN, "--explain", f"--{name}=file/x")
        yield Input("outputs", f"--{name}=file/x", call, REFUSED, write)
    full = command("run", *RUN, "--out=off", "--results_path=/dev/full")
    yield Input("outputs", "--results_path=/dev/full", full, REFUSED, write, has_results())
    null = command("run", *RUN, "--out=off", "--results_path=/dev/null")
    yield Input("outputs", "--results_path=/dev/null", null, ACCEPTED, write)

    def sources() -> None:
        import shutil

        write()
        shutil.copytree(files / "bundle", "bundle")
        shutil.copy(files / SAVED, "c.pt")
        shutil.copy(files / "results.json", "results.json")
        Path("m.py").write_text("import torch\n")
        Path("s.yaml").write_text(
            "model: sgd\ndataset: seq-fmnist-mini\nbackbone: mnistmlp\nlr: [0.1, 0.2]\n"
            "debug_mode: true\ncompile: off\nstop_after: 1\n"
        )

    for what, words in STANDARD_OUTPUT.items():
        call = command(what.split()[0], *words)
        yield Input(
            *("outputs", f"{what} > /dev/full", call, REFUSED, sources, wrong_files, "/dev/full")
        )


def full_disks() -> Iterator[Input]:
    """Yields runs whose disk becomes full: by a limit on files, and on a small file system."""

    def write() -> None:
        tempfile.tempdir = os.path.abspath("../temporary")
        os.mkdir(tempfile.tempdir)

    runs = {
        "checkpoints": [*SAVES, "--out=off"],
        "a run folder": ["--out=run", "--savecheck=task", "--results_path=results.json"],
        "logs": ["--out=off", "--log=csv,jsonl", "--log_dir=logs", "--log_every=1", SAVES[2]],
        "a bundle": [*EXPORTS, "--out=off", SAVES[2], "--checkpoint_path=saved"],
        "everything": ["--out=run", *SAVES, *EXPORTS, "--export_each_task"],
    }
    for what, words in runs.items():
        for limit in (5_000, 12_000, 40_000):

            def call(words: list[str] = words, limit: int = limit) -> int:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                try:
                    return command("run", *RUN, *words)()
                finally:
                    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)

            # With a smaller limit not even the results fit, anywhere.
            check = has_results() if limit >= 12_000 else wrong_files
            yield Input("full disks", f"{what}, {limit:,} bytes", call, EITHER, write, check)
    if os.getuid() == 0:
        for what, words in runs.items():
            for size in (64, 128, 256):
                yield Input(
                    *("full disks", f"{what}, {size} KiB", _on_small_disk(words, size), EITHER),
                    *(write, _after_small_disk),
                )


def _on_small_disk(words: list[str], size: int) -> Callable[[], int]:
    """Returns a run with all outputs but the results on a file system of so many KiB."""

    def call() -> int:
        before = os.getcwd()
        os.mkdir("small")
        new_mounts = 0x00020000
        if ctypes.CDLL(None).unshare(new_mounts):
            raise MammothError("this test may not mount a small file system")
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", "small"]
        for argv in (["mount", "--make-rprivate", "/"], mount):
            subprocess.run(argv, check=True, capture_output=True)
        os.chdir("small")
        try:
            moved = [w.replace("=results.json", f"={before}/results.json") for w in words]
            return command("run", *RUN, *moved)()
        finally:
            left = [p.name for p in Path().rglob("*") if TEMPORARY.fullmatch(p.name)]
            wrong = wrong_files() or ", ".join(left)
            os.chdir(before)
            subprocess.run(["umount", "small"], check=True, capture_output=True)
            os.rmdir("small")
            Path("wrong").write_text(wrong)

    return call


def _after_small_disk() -> str:
    return Path("wrong").read_text() or has_results()()


# --- Signals --------------------------------------------------------------------------------------


def signalled(call: Callable[[], Any], number: int, delay: float) -> Callable[[], Any]:
    """Returns a function that is sent a signal some seconds after it begins."""

    def run() -> Any:
        signal.signal(number, end_process)
        process = os.getpid()
        if os.fork() == 0:
            time.sleep(delay)
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
            os._exit(0)
        try:
            return call()
        finally:
            signal.signal(number, signal.SIG_IGN)

    return run


def signals(files: Path) -> Iterator[Input]:
    """Yields commands that get SIGINT, SIGTERM or SIGHUP at a random moment."""
    draw = random.Random(0)
    commands = {
        "run": ["run", *RUN, *SAVES, *EXPORTS, "--export_each_task", "--checkpoint_every=1"],
        "export": ["export", files / SAVED, "bundle"],
        "update": ["export", "update", "bundle", files / SAVED],
        "verify": ["export", "verify", files / "bundle"],
        "report": ["report", files / "results.json", "--output=r.html"],
    }

    def write() -> None:
        import shutil

        shutil.copytree(files / "bundle", "bundle")

    for name, words in commands.items():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            for _ in range(8 if name == "run" else 4):
                delay = draw.uniform(0.02, {"run": 3, "report": 0.3}.get(name, 1.5))
                call = signalled(command(*map(str, words)), number, delay)
                what = f"{name}: {number.name} after {delay:.2f} s"
                prepare = write if name == "update" else None
                yield Input("signals", what, call, EITHER, prepare, wrong_files, ends=number)
