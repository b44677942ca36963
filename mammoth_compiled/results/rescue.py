"""Results outlive a full disk: where they cannot be written, another place keeps them."""

import tempfile
from pathlib import Path

from mammoth_compiled.errors import MammothError
from mammoth_compiled.results.results import Results


def write_or_rescue(results: Results, path: Path) -> None:
    """Writes the results of a run that has ended; if that fails, to the folder for temporary files.

    Args:
        results: The results.
        path: The file that should have them.

    Raises:
        MammothError: If `path` cannot be written; says where the results are.
    """
    try:
        results.write_json(path)
    except MammothError as error:
        try:
            rescued = Path(tempfile.mkdtemp(prefix="mammoth-results-")) / path.name
            results.write_json(rescued)
        except (OSError, MammothError):  # nowhere left to write
            raise error from None
        raise MammothError(f"{error}. The results are saved in {rescued}") from error
