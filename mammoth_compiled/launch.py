"""How this process was started: alone, or by torchrun as one of several."""

import os


def is_launched() -> bool:
    """Returns whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_rank() -> int:
    """Returns the number of this process among those that torchrun started, 0 for a single one."""
    return int(os.environ.get("RANK", "0")) if is_launched() else 0
