"""How this process was started: alone, or by torchrun as one of several."""

import os


def is_launched() -> bool:
    """Returns whether torchrun started this process as one of several."""
    return _number("WORLD_SIZE", 1) > 1


def launched_rank() -> int:
    """Returns the number of this process among those that torchrun started, 0 for a single one."""
    return _number("RANK", 0) if is_launched() else 0


def _number(name: str, default: int) -> int:
    """Returns an environment variable of torchrun; torch refuses one that is not a number."""
    try:
        return int(os.environ.get(name) or default)
    except ValueError:
        return default
