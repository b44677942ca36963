"""Captures a function as a CUDA graph."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch


class Recorder(Protocol):
    """Runs a function once to write down what it does on the device, and does that again."""

    def rehearse(self) -> contextlib.AbstractContextManager[None]:
        """Returns the surroundings in which the function is run before it is recorded."""

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Records a function without running it on the device.

        Returns:
            What replays it, and what the function returned: tensors that each replay fills anew.

        Raises:
            RuntimeError: If the function waits for the device, or does what cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs on a stream of its own.

    Whatever ran before on that stream, the accumulation of gradients for example, stays on it: a
    graph must not wait for work outside it.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)

    @contextlib.contextmanager
    def rehearse(self) -> Iterator[None]:
        """Runs on the stream of the recordings, after what was launched so far."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Records a function; see `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # Threads that load data may call CUDA meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result
