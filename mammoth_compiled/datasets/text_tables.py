"""Reads the text files with one row per image or class that come with many datasets."""

from pathlib import Path

from mammoth_compiled.errors import DataError


def read_table(path: Path, columns: int, separator: str | None = None) -> list[list[str]]:
    """Returns the columns of every line that is not empty.

    Args:
        path: The file.
        columns: Number of columns that each line must have at least.
        separator: Between the columns; None for any white space.

    Raises:
        DataError: If the file is missing or a line is incomplete; names it.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): extract the archive again") from error
    rows = [line.split(separator) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if len(row) < columns:
            raise DataError(
                f"{path}: row {number} has {len(row)} of {columns} columns: extract the archive "
                "again"
            )
    return rows
