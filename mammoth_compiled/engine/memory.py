"""Peak memory, and the error of a run that needs more memory than its device has."""

import resource
import sys

import torch

from mammoth_compiled.buffers import Buffer
from mammoth_compiled.engine.observer import Run
from mammoth_compiled.errors import TrainingError


def out_of_memory(run: Run) -> TrainingError:
    """Returns an error that says what the device held and which arguments to lower."""
    model, dataset = run.model, run.dataset
    sizes = {"weights": sum(p.nbytes for p in model.parameters())}
    buffer = getattr(model, "buffer", None)
    if isinstance(buffer, Buffer):
        sizes["buffer"] = sum(t.nbytes for t in buffer.serialize(buffer.device).values())
    if dataset.train_loader is not None:
        sizes["images of the task"] = int(getattr(dataset.train_loader.dataset.data, "nbytes", 0))
    held = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in sizes.items())
    flags = ["--batch_size"]
    flags += [f"--{name}" for name in ("minibatch_size", "buffer_size") if name in run.config.extra]
    return TrainingError(
        f"out of memory on {model.device} in task {run.task + 1}: it held {held}, and the "
        f"activations of a batch. Lower {', '.join(flags)}, or use --amp bf16"
    )


def begin_peak(device: torch.device) -> None:
    """Starts a new measurement of the peak memory of a GPU; a CPU has none to reset."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Returns the peak memory in bytes.

    On a GPU this is what torch has allocated since `begin_peak`; on a CPU the resident memory of
    the process since its start.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024  # KiB on Linux
