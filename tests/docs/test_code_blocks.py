"""The Python code of README and of every page of the documentation runs.

The blocks of a page share one namespace and run in order, in an empty folder. To be quick, runs
train six batches per epoch and stay in eager mode unless the page says otherwise. A block that must
not run is a `{code-block}` directive instead of a plain fence.
"""

import re
from pathlib import Path

import pytest
import torch

import mammoth_compiled

REPOSITORY = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = {"debug_mode": 1, "compile": "off"}


def python_blocks(page):
    """Returns (number of the line before the code, code) of every block of a page."""
    text = page.read_text()
    return [(text[: match.start(1)].count("\n"), match[1]) for match in FENCE.finditer(text)]


def pages():
    """Returns the pages that have code; those that compile are slow."""
    found = []
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]:
        if blocks := python_blocks(page):
            compiles = any("torch.compile(" in code for _, code in blocks)
            marks = [pytest.mark.slow] if compiles else []
            found.append(pytest.param(page, marks=marks, id=str(page.relative_to(REPOSITORY))))
    return found


@pytest.mark.parametrize("page", pages())
def test_page_runs(page, tmp_path, monkeypatch):
    load_runner = mammoth_compiled.load_runner

    def load_quick_runner(model, dataset, args=None):
        return load_runner(model, dataset, {**QUICK, **(args or {})})

    monkeypatch.setattr(mammoth_compiled, "load_runner", load_quick_runner)
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    namespace = {"__name__": "page"}
    for line, code in python_blocks(page):
        exec(compile("\n" * line + code, str(page), "exec"), namespace)
