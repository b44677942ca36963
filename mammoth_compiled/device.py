"""Where a run computes, where it keeps files, its random state and its freed memory."""

import ctypes
import os
import random
from typing import Any

import numpy as np
import torch

from mammoth_compiled.errors import ConfigError


def get_device(name: str | None = None) -> torch.device:
    """Returns the device called `name`; without a name the first GPU, else the CPU.

    Raises:
        ConfigError: If there is no such device here; lists those that there are.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    known = device is not None and (
        str(device) in available or (device == torch.device("cuda") and len(available) > 1)
    )
    if device is None or not known:
        raise ConfigError(f"device {name!r} is not there; available: {', '.join(available)}")
    return device


def computes_bf16(device: torch.device) -> bool:
    """Returns whether a device multiplies bfloat16 in hardware; others emulate it, slowly."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def base_path() -> str:
    """Returns the folder for data and checkpoints, with a slash at its end.

    It is the environment variable MAMMOTH_BASE_PATH, or `./data/`.
    """
    return os.path.join(os.environ.get("MAMMOTH_BASE_PATH") or "./data", "")


def set_seed(seed: int) -> None:
    """Seeds the generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Returns the state of all generators as tensors and plain numbers."""
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
    """Puts back what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


# Parameters of glibc's mallopt(3), from malloc.h, and the largest block that glibc by itself comes
# to take from its heap: larger ones are better given back, holes of their size would add up.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST = 32 * 2**20


def keep_freed_memory() -> bool:
    """Makes the allocator keep what tensors on the CPU free, for the rest of the process.

    By default glibc gives what is free at the end of its heap back to the system, and the next
    step's activations and gradients, of the same sizes, are paged in anew, zeroed. What the process
    needs at its peak it then holds until it ends; blocks over 32 MiB are given back all the same.

    Returns:
        Whether the C library has such a switch; others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not glibc; TypeError: not POSIX
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, -1))
