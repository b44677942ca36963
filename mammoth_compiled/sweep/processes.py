"""Starts the processes of runs, forked from this one where that is safe, so that they share memory.

A forked process has everything that this one has loaded: modules, which take seconds to import,
the images of the dataset, and what Inductor computes once per process. The system copies a page of
memory only when one of the processes writes to it.
"""

import contextlib
import ctypes
import functools
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mammoth_compiled.compiler.compat import compile_function
from mammoth_compiled.device import BASE_PATH, set_base_path
from mammoth_compiled.registry import datasets
from mammoth_compiled.runner import build_dataset
from mammoth_compiled.signals import SIGNALS, is_main_thread
from mammoth_compiled.startup import is_command_line
from mammoth_compiled.sweep.trial import Trial

PRELOADED = ["mammoth_compiled.public", "mammoth_compiled.sweep.worker"]
# Seconds after which a forked process that multiplies matrices on two threads counts as stuck.
FORK_CHECK_S = 30.0
# Of prctl(2).
_PR_SET_PDEATHSIG = 1


@functools.cache
def can_fork() -> bool:
    """Returns whether processes are forked from this one rather than from a new, empty one.

    A process with a CUDA context, with other Python threads, or whose thread pools already run
    cannot be forked safely. Library code that was imported may have started pools, so a forked
    process tries out whether its own work.
    """
    if sys.platform != "linux" or not is_command_line(sys.orig_argv) or not is_main_thread():
        return False
    if threading.active_count() > 1 or torch.cuda.is_available():
        return False
    # This process computes nothing that needs threads of its own.
    torch.set_num_threads(1)
    return _threads_work_after_fork()


def _threads_work_after_fork() -> bool:
    with _fork_warnings_ignored():
        child = os.fork()
    if not child:
        torch.set_num_threads(2)
        product = torch.ones(512, 512) @ torch.ones(512, 512)
        os._exit(0 if product.sum() == 512**3 else 1)
    end = time.monotonic() + FORK_CHECK_S
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status == 0
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def context() -> Any:
    """Returns the multiprocessing context in which runs are started."""
    found: Any = multiprocessing.get_context("fork" if can_fork() else "forkserver")
    if not can_fork():
        found.set_forkserver_preload(PRELOADED)
    return found


def start(target: Callable[..., None], args: Sequence[Any], name: str, close: Sequence[Any]) -> Any:
    """Starts a process.

    Signals wait until its `target` calls `accept_signals`: before, it would handle them like this
    process. If this process is killed, the other one gets a SIGINT (on Linux).

    Args:
        target: What it runs, as `target(*args)`.
        args: Arguments.
        name: Name of the process.
        close: Connections of this process, which a forked one closes, so that their other ends
            notice when this process is killed.

    Returns:
        A `multiprocessing.Process`.
    """
    process = context().Process(
        target=_run,
        args=(target, args, close if can_fork() else (), os.getpid() if can_fork() else None),
        name=name,
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if can_fork() else None
    try:
        with _fork_warnings_ignored():
            process.start()
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process


def _run(
    target: Callable[..., None], args: Sequence[Any], close: Sequence[Any], parent: int | None
) -> None:
    for number in SIGNALS:  # a forked process has the handlers of the sweep
        if signal.getsignal(number) is not signal.SIG_IGN:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)
    _end_with_parent(parent)
    for connection in close:
        connection.close()
    target(*args)


def _end_with_parent(parent: int | None) -> None:
    """Asks for a SIGINT when the parent process ends, which a killed one cannot send.

    A process started by a fork server ends with that one, which ends with the sweep.

    Args:
        parent: The number of the parent if it forked this process.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
    if parent is not None and os.getppid() != parent:  # it was killed before
        os.kill(os.getpid(), signal.SIGINT)


def accept_signals() -> None:
    """Lets signals in that arrived while this process was started; call it with handlers set."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextlib.contextmanager
def _fork_warnings_ignored() -> Iterator[None]:
    """Python 3.12 warns of forks in processes with threads, also of those of NumPy's OpenBLAS."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def share_images(trials: Sequence[Trial]) -> None:
    """Reads the images that trials have in common, before their processes are forked.

    Only datasets with `SHARES_IMAGES` are read: user code may draw random numbers when it reads
    images, which depend on the seed of a run.

    Args:
        trials: Some or all of the trials to come.
    """
    if not can_fork():
        return
    seen: set[Any] = set()
    for trial in trials:
        args = trial.args
        key = (args.dataset, vars(args).get("data_dir"))
        if key in seen or not getattr(datasets[args.dataset].target, "SHARES_IMAGES", False):
            continue
        seen.add(key)
        # An error is that of the run, which will report it.
        with _base_path(args.data_dir), contextlib.suppress(Exception):
            dataset = build_dataset(args)
            dataset.c_task = 0
            dataset.get_data_loaders()
    _leave_objects_alone()


@contextlib.contextmanager
def _base_path(path: str | None) -> Iterator[None]:
    before = os.environ.get(BASE_PATH)
    set_base_path(path)
    try:
        yield
    finally:
        os.environ.pop(BASE_PATH, None)
        if before is not None:
            os.environ[BASE_PATH] = before


@functools.cache
def warm_up_compiler() -> None:
    """Compiles a trivial function, so that forked processes find Inductor imported and set up.

    Setting up includes hashing the sources of PyTorch and Triton and looking for a C++ compiler.
    """
    if not can_fork():
        return
    with contextlib.suppress(Exception):  # no compiler: the runs will say so
        from torch._inductor import config

        # A pool of compile threads would not survive the fork.
        with config.patch(compile_threads=1), torch.no_grad():
            compile_function(_trivial, backend="mammoth", dynamic=False)(torch.zeros(8))
    _leave_objects_alone()


def _trivial(x: torch.Tensor) -> torch.Tensor:
    return x.relu() + 1


def _leave_objects_alone() -> None:
    """Keeps garbage collection in forked processes from writing to the objects of this one."""
    gc.collect()
    gc.freeze()
