"""How the runs of a sweep share the cores of a CPU: several with few threads, or few with many.

Which is faster depends on the network. A small one gains little from a second thread, so that two
processes with one thread each do nearly twice the work; a large one may fill all cores, and two of
them compete for the cache. So training steps are timed in every layout, once for each kind of run
and machine.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import platform
import statistics
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mammoth_compiled.config import RunConfig
from mammoth_compiled.console import begin_output, quiet
from mammoth_compiled.device import get_device, keep_freed_memory, set_base_path
from mammoth_compiled.engine.step import EagerStep
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import user_cache, write_atomically
from mammoth_compiled.plugins import import_plugin
from mammoth_compiled.runner import build
from mammoth_compiled.sweep import processes
from mammoth_compiled.sweep.trial import Trial

# Steps before the clock starts, and seconds of timed steps.
WARM_UP_STEPS = 2
TIMED_S = 0.6
# Seconds that processes may take to build the model and train their steps.
LIMIT_S = 120.0
# Of layouts that take about the same time, the one with most runs at a time is taken: what steps
# do not show, such as reading, compiling and logging, uses one thread.
ABOUT_THE_SAME = 1.03


class Layout(NamedTuple):
    """How trials share the machine.

    Attributes:
        workers: Trials at the same time.
        threads: Threads of each on the CPU.
        reason: Why, for the user to read.
        together: Of these trials, how many share a process and take turns; see `sweep.turns`.
    """

    workers: int
    threads: int
    reason: str = ""
    together: int = 1

    def __str__(self) -> str:
        if self.together > 1:
            return f"{self.together} at a time in one process"
        threads = f" on {self.threads} thread{'s'[: self.threads > 1]} each"
        return f"{self.workers} at a time{threads}" + (f" ({self.reason})" if self.reason else "")


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def choose_layout(
    trial: Trial,
    total: int | None = None,
    workers: int | None = None,
    plugins: Sequence[str] = (),
    together: int | None = None,
) -> Layout:
    """Returns the layout that is expected to finish a sweep first.

    Args:
        trial: One of its trials.
        total: Number of trials; None if it is not known.
        workers: Trials at the same time, if the user gave it; nothing is measured then.
        plugins: Files and modules of `--import`.
        together: Trials that share a process and take turns, if the user asked for it.
    """
    cores = available_cores()
    if together is not None and together > 1:
        together = together if total is None else min(together, total)
        return Layout(together, cores, "--together", together)
    most = cores if total is None else min(cores, total)
    config = RunConfig.from_namespace(trial.args)
    if workers is not None:
        workers = workers if total is None else min(workers, total)
        return Layout(workers, max(1, cores // workers), "--workers")
    if get_device(config.compute.device).type != "cpu":
        return Layout(1, cores, "one GPU")
    if most == 1 or config.experiment.debug_mode:
        return Layout(most, max(1, cores // most))
    counts = _candidates(cores, most)
    path = _cache_path(trial, cores)
    rates = _read(path)
    if not all(count in rates for count in counts):
        rates = {count: _rate(trial, count, cores // count, plugins) for count in counts}
        if not all(rates.values()):  # the trials will report what is wrong
            return Layout(most, max(1, cores // most))
        with contextlib.suppress(MammothError):
            write_atomically(path, json.dumps(rates).encode())
    return fastest({count: rates[count] for count in counts}, total, cores)


def fastest(rates: Mapping[int, float], total: int | None, cores: int) -> Layout:
    """Returns the layout with the shortest expected time.

    Args:
        rates: By number of trials at the same time: steps per second of each of them.
        total: Number of trials; None if it is not known.
        cores: Number of cores, which are divided among the trials.

    Example:
        >>> fastest({2: 30.0, 1: 40.0}, total=4, cores=2).reason
        'measured: 1.50x the steps/s of 1 at a time'
        >>> fastest({2: 30.0, 1: 50.0}, total=3, cores=2).workers  # the third would run alone
        1
    """
    seconds = {n: (1 / n if total is None else math.ceil(total / n)) / r for n, r in rates.items()}
    best = min(seconds.values())
    workers = max(n for n in rates if seconds[n] <= ABOUT_THE_SAME * best)
    gain = workers * rates[workers] / rates[1]
    reason = f"measured: {gain:.2f}x the steps/s of 1 at a time" if workers > 1 else "measured"
    return Layout(workers, max(1, cores // workers), reason)


def _candidates(cores: int, most: int) -> list[int]:
    """Returns numbers of trials at the same time: `most`, 1, and powers of two in between."""
    powers = itertools.takewhile(lambda n: n < most, (2**k for k in itertools.count()))
    return [most, *sorted(powers, reverse=True)]


def _cache_path(trial: Trial, cores: int) -> Path:
    machine = (platform.node(), torch.__version__, torch.backends.cpu.get_cpu_capability(), cores)
    sizes = vars(trial.args).get("minibatch_size")
    digest = hashlib.sha256(repr((machine, trial.compile_key, sizes)).encode()).hexdigest()
    return user_cache() / "layouts" / f"{digest[:20]}.json"


def _read(path: Path) -> dict[int, float]:
    try:
        return {int(name): float(rate) for name, rate in json.loads(path.read_bytes()).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _rate(trial: Trial, workers: int, threads: int, plugins: Sequence[str]) -> float:
    """Returns the steps per second of each of several trials side by side, 0 if one fails."""
    context = processes.context()
    barrier = context.Barrier(workers)
    running: list[Any] = []
    ours: list[Connection] = []
    plugins = () if processes.can_fork() else plugins
    for number in range(workers):
        mine, theirs = context.Pipe()
        args = (theirs, barrier, trial.args, plugins, threads)
        running.append(processes.start(_time_steps, args, f"timing {number}", [*ours, mine]))
        theirs.close()
        ours.append(mine)
    rates: list[float] = []
    end = time.monotonic() + LIMIT_S
    try:
        while len(rates) < workers:
            ready = wait(ours, timeout=max(0.0, end - time.monotonic()))
            if not ready:
                break
            for connection in [c for c in ours if c in ready]:
                rates.append(connection.recv())
                ours.remove(connection)
    except EOFError:
        pass
    finally:
        for process in running:
            process.kill()
            process.join()
    return statistics.mean(rates) if len(rates) == workers else 0.0


def _time_steps(
    connection: Connection, barrier: Any, args: Namespace, plugins: Sequence[str], threads: int
) -> None:
    """Sends the steps per second of the first task, in eager mode."""
    os.setsid()  # Ctrl-C is for the sweep, which then ends this process
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    processes.accept_signals()
    begin_output()
    torch.set_num_threads(threads)
    set_base_path(args.data_dir)
    with quiet():
        for plugin in plugins:
            import_plugin(plugin)
        try:
            rate = _steps_per_second(args, barrier)
        except Exception:  # user code may raise anything; the trial itself will report it
            barrier.abort()
            return
    connection.send(rate)


def _steps_per_second(args: Namespace, barrier: Any) -> float:
    model, dataset = build(Namespace(**{**vars(args), "compile": "off"}))
    loader, _ = dataset.meta_get_data_loaders()
    model.net.train()
    model.meta_begin_task(dataset)
    keep_freed_memory()
    step = EagerStep(model, model.compute)
    step.begin_epoch()
    batches = itertools.chain.from_iterable(loader.lazy_batches() for _ in itertools.repeat(None))
    for lazy in itertools.islice(batches, WARM_UP_STEPS):
        step(lazy, 0)
    barrier.wait(LIMIT_S)
    end, times = time.perf_counter() + TIMED_S, []
    while (begin := time.perf_counter()) < end:
        step(next(batches), 0)
        times.append(time.perf_counter() - begin)
    barrier.wait(LIMIT_S)  # the others are to be timed with this one at work
    # Other programs on the machine slow some of the steps.
    return 1 / statistics.quantiles([*times, times[0]], n=4)[0]
