"""Several runs in one process that take turns, so that their steps overlap on a GPU.

The step of a small network does not fill a GPU: its kernels are short and wait for memory. Here
every run has a thread and a CUDA stream. One thread runs at a time: it launches some steps, which
return before the GPU is done, and passes on to the next. The GPU then has steps of several runs to
work on, and their kernels fill it together.

A run computes what it computes alone. It has its own captured graph, recorded on its own stream
with its own cuBLAS workspace, and its own random numbers, on a GPU a state of the generator that
its graph is registered with. Nothing waits for another run: one that is evaluated, has a ragged
batch, or ends early leaves the others alone. One graph of the steps of all runs, forked to several
streams, would save launches, but would have to be captured again whenever a run ends.
"""

import contextlib
import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mammoth_compiled.console import output_state, set_output_state
from mammoth_compiled.device import BASE_PATH, random_state, set_random_state
from mammoth_compiled.engine import Observer, Run
from mammoth_compiled.engine.losses import READ_EVERY

# Steps that a run launches before the next one does. A turn ends right before losses are read,
# which then finds them computed instead of waiting while no other run can launch steps.
STEPS_PER_TURN = READ_EVERY // 2
# Steps in which a run may allocate tensors that all runs share, such as constants. In these, a turn
# ends when the GPU has computed them.
ALLOCATING_STEPS = 200


@dataclass
class ProcessState:
    """State of the process of which each run has its own.

    Attributes:
        random: States of the random number generators of Python, NumPy and torch on the CPU.
        generators: Generators of the GPUs, whose states graphs are registered with.
        output: Where lines on the console go.
        base_path: The environment variable of the folder for data.
    """

    random: dict[str, Any]
    generators: list[Any]
    output: Any
    base_path: str | None

    @classmethod
    def current(cls) -> "ProcessState":
        """Returns the state of this process."""
        generators = [g.graphsafe_get_state() for g in _gpu_generators()]
        random = {**random_state(), "cuda": []}
        return cls(random, generators, output_state(), os.environ.get(BASE_PATH))

    def copy(self) -> "ProcessState":
        """Returns a copy with generators of its own."""
        generators = [generator.clone_state() for generator in self.generators]
        return ProcessState(self.random, generators, self.output, self.base_path)

    def enter(self) -> None:
        """Makes it the state of this process."""
        for generator, state in zip(_gpu_generators(), self.generators, strict=True):
            generator.graphsafe_set_state(state)
        set_random_state(self.random)
        set_output_state(self.output)
        os.environ.pop(BASE_PATH, None)
        if self.base_path is not None:
            os.environ[BASE_PATH] = self.base_path


def _gpu_generators() -> Sequence[Any]:
    return torch.cuda.default_generators if torch.cuda.is_initialized() else ()


@dataclass
class _Member:
    """A run: its thread waits for `turn`, and then runs with `state`."""

    function: Callable[[], None]
    state: ProcessState
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


class Turns:
    """Lets functions run in threads, one at a time, in the same order.

    Args:
        device: Where they compute.

    Example:
        >>> turns, order = Turns(torch.device("cpu")), []
        >>> def count(name):
        ...     for k in range(2):
        ...         order.append(f"{name}{k}")
        ...         turns.pass_on()
        >>> turns.run([lambda: count("a"), lambda: count("b")])
        >>> order
        ['a0', 'b0', 'a1', 'b1']
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # The first one runs.
        self._queue: deque[_Member] = deque()

    def run(self, functions: Sequence[Callable[[], None]]) -> None:
        """Runs functions until all have returned; none of them may raise."""
        if self._device.type == "cuda":
            torch.cuda.init()
        state = ProcessState.current()
        members = [_Member(function, state.copy()) for function in functions]
        self._queue.extend(members)
        threads = [
            # Settings of torch.compile are context variables.
            threading.Thread(target=contextvars.copy_context().run, args=(self._live, member))
            for member in members
        ]
        for thread in threads:
            thread.start()
        self._begin_turn()
        for thread in threads:
            thread.join()
        state.enter()

    def pass_on(self, wait: bool = False) -> None:
        """Lets the next function run until it is this one's turn again; call it in a function.

        Args:
            wait: Whether the GPU is to be done first with what this one has launched.
        """
        if len(self._queue) == 1:
            return
        if wait and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        member = self._queue[0]
        member.state = ProcessState.current()
        self._queue.rotate(-1)
        self._begin_turn()
        member.turn.acquire()

    def _begin_turn(self) -> None:
        self._queue[0].state.enter()
        self._queue[0].turn.release()

    def _live(self, member: _Member) -> None:
        member.turn.acquire()
        try:
            with self._stream():
                member.function()
        finally:
            self._queue.popleft()
            if self._queue:
                self._begin_turn()

    def _stream(self) -> contextlib.AbstractContextManager[Any]:
        if self._device.type != "cuda":
            return contextlib.nullcontext()
        return torch.cuda.stream(torch.cuda.Stream(self._device))


class TurnObserver(Observer):
    """Passes on to the next run after some steps.

    Args:
        turns: The runs that take turns.
        runs: Gets the run, for a signal to stop it.
        stop_signal: Returns the number of a signal that came before, None if none did.
    """

    def __init__(
        self, turns: Turns, runs: list[Run], stop_signal: Callable[[], int | None]
    ) -> None:
        self._turns = turns
        self._runs = runs
        self._stop_signal = stop_signal
        self._steps = 0

    def begin_run(self, run: Run) -> None:
        """Makes the run known."""
        self._runs.append(run)
        run.stop_signal = self._stop_signal()

    def end_step(self, run: Run, loss: Any, num_images: int) -> None:
        """Counts steps."""
        self._steps += 1
        if (run.task_step + 1) % STEPS_PER_TURN == 0:
            self._turns.pass_on(wait=self._steps <= ALLOCATING_STEPS)
