"""Reports: what runs measured, as a self-contained page, as figures, and as a table of pandas.

`python -m mammoth_compiled.report RUN [RUN ...]` writes the page; runs are run folders, results
files, or folders that contain runs.
"""

from mammoth_compiled.report.document import render, write_report
from mammoth_compiled.report.frame import load
from mammoth_compiled.report.runs import RecordedRun, read_runs

__all__ = ["RecordedRun", "load", "read_runs", "render", "write_report"]
