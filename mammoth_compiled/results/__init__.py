"""What a run measured, as an object, as JSON, as rows of a table and as HTML."""

from mammoth_compiled.results.formats import plain_arguments
from mammoth_compiled.results.results import Results

__all__ = ["Results", "plain_arguments"]
