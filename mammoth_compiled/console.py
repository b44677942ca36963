"""Console output: plain lines that do not break a progress bar."""

import sys

from tqdm import tqdm


def say(text: str) -> None:
    """Prints a line to standard output, above any progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
