"""Captures a function as a CUDA graph."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch


class GraphCapture(Protocol):
    """Runs a function once to capture its work on the device, which can then be replayed."""

    def stream(self) -> contextlib.AbstractContextManager[None]:
        """Returns a context that runs work on the capture stream."""

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Captures a function without running it on the device.

        Returns:
            A function that replays the graph, and what `function` returned: tensors that every
            replay overwrites.

        Raises:
            RuntimeError: If the function causes a host sync or does what cannot be captured.
        """


def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Returns the current stream, if a run has one of its own, else one for all runs."""
    current = torch.cuda.current_stream(device)
    return _shared_stream(device) if current == torch.cuda.default_stream(device) else current


@functools.cache
def _shared_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class CudaGraphCapture:
    """Captures CUDA graphs on a separate stream.

    Every step of every task uses that stream, captured or not: gradients accumulate on the stream
    that first produced them, and a captured graph must not wait for work on another stream.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _capture_stream(device)

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Runs work on the capture stream, ordered after and before that of the current one."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def capture(self, function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """Captures a function; see `GraphCapture`."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": data loading threads may call CUDA meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            result = function()
        return graph.replay, result
