"""The examples in public docstrings run, and every public name has a place in the reference."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import mammoth_compiled

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"


def modules_with_examples():
    """Returns the names of the modules whose source has an example."""
    folders = {"mammoth_compiled": "", "kernels": "kernels", "export": "export"}
    for folder, package in folders.items():
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            if ">>> " in path.read_text():
                parts = path.relative_to(REPOSITORY / folder).with_suffix("").parts
                words = ["mammoth_compiled", package, *parts]
                yield ".".join(word for word in words if word and word != "__init__")


def examples():
    """Returns the docstrings with examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = []
    for name in modules_with_examples():
        tests = finder.find(importlib.import_module(name), name)
        found += [pytest.param(test, id=test.name) for test in tests if test.examples]
    return found


@pytest.mark.parametrize("test", examples())
def test_example_runs(test, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failures = doctest.DocTestRunner(optionflags=flags).run(test)
    assert failures.failed == 0


@pytest.mark.parametrize("name", sorted(set(mammoth_compiled.__all__) - {"__version__"}))
def test_reference_documents(name):
    directive = re.compile(rf"^\.\. auto(class|function):: mammoth_compiled\.{name}$", re.MULTILINE)
    assert any(directive.search(page.read_text()) for page in REFERENCE.glob("*.md"))


def test_reference_lists_the_stable_names():
    table = (REFERENCE / "index.md").read_text()
    listed = set(re.findall(r"`~mammoth_compiled\.(\w+)`", table))
    assert listed == set(mammoth_compiled.__all__) - {"__version__"}
