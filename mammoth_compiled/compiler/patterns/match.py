"""What a pattern tells of a place where it was looked for."""

from dataclasses import dataclass

# Kernels are compiled for every size but the batch's.
OPEN_SIZE = "a size other than the batch's differs from call to call"


@dataclass(frozen=True)
class Match:
    """A place in a graph where a pattern was looked for.

    Attributes:
        pattern: Name of the pattern.
        place: Name of the node where it would be.
        reason: Why it was left alone; empty if it was replaced.
        by: What replaced it.
    """

    pattern: str
    place: str
    reason: str = ""
    by: str = ""
