"""The machine a run uses: its device, its folder for files, random state and freed memory."""

import contextlib
import ctypes
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mammoth_compiled.errors import ConfigError

# The environment variable that sets `base_path`.
BASE_PATH = "MAMMOTH_BASE_PATH"


def default_device() -> torch.device:
    """Returns the device of a run that names none: the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def get_device(name: str | None = None) -> torch.device:
    """Returns a device by name.

    Args:
        name: "cpu", "cuda" or "cuda:N"; None for the first GPU, or the CPU if there is no GPU.

    Raises:
        ConfigError: If this machine has no such device.

    Example:
        >>> get_device("cpu")
        device(type='cpu')
    """
    if name is None:
        return default_device()
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    is_available = device is not None and (
        str(device) in available or (device == torch.device("cuda") and len(available) > 1)
    )
    if device is None or not is_available:
        raise ConfigError(f"device {name!r} is not available; valid: {', '.join(available)}")
    return device


def computes_bf16(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 in hardware rather than by slow emulation."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def base_path() -> str:
    """Returns the folder of data and checkpoints, with a trailing slash.

    The environment variable `MAMMOTH_BASE_PATH` sets it; the default is `./data/`.
    """
    return os.path.join(os.environ.get(BASE_PATH) or "./data", "")


def set_base_path(path: str | None) -> None:
    """Sets the folder of data and checkpoints for this process; None leaves it."""
    if path is not None:
        os.environ[BASE_PATH] = path


def set_seed(seed: int) -> None:
    """Seeds the random number generators of Python, NumPy and torch on all devices.

    Args:
        seed: Any non-negative integer; NumPy uses its lower 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Returns the state of all random number generators as tensors and numbers."""
    version, internal, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=True)
    assert isinstance(numpy_state, tuple)
    kind, keys, position, has_gauss, cached = numpy_state
    return {
        "python": (version, list(internal), gauss),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restores a state returned by `random_state`."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        # The run may have been saved on a machine with more GPUs.
        for index, saved in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(saved, index)


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Restores the state of all random number generators at its end."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


# Parameters of mallopt(3) in malloc.h of glibc, and the largest block that glibc takes from its
# heap by default. Larger blocks should return to the system: holes of their size would add up.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MAX_HEAP_BLOCK = 32 * 2**20


def keep_freed_memory() -> bool:
    """Makes glibc keep the memory that CPU tensors free, until the process ends.

    By default glibc returns free memory at the end of its heap to the system, so that the
    activations and gradients of the next step, which have the same sizes, cause page faults again.
    With this setting the process holds its peak memory, except for blocks over 32 MiB.

    Returns:
        False if the C library has no such setting; nothing changes then.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc; TypeError: not POSIX
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MAX_HEAP_BLOCK) and mallopt(_M_TRIM_THRESHOLD, -1))
