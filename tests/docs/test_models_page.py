"""The table of methods names every registered model and the settings that it supports."""

import re
import sys
from pathlib import Path

import pytest

from mammoth_compiled.registry import models

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "models.md"
LETTERS = {"class-il": "C", "task-il": "T", "domain-il": "D", "general-continual": "G"}


@pytest.mark.parametrize("name", list(models))
def test_method_has_a_row(name):
    row = re.search(rf"^\| `{name}` \|.*\| ([CTDG ]+) \|$", PAGE.read_text(), re.MULTILINE)
    assert row, f"add a row for {name} to {PAGE}"
    assert row[1].split() == [LETTERS[s] for s in LETTERS if s in models[name].target.COMPATIBILITY]


@pytest.mark.parametrize("name", sorted(set(models) - {"sgd", "joint"}))
def test_every_method_names_its_paper_and_its_equation(name):
    module = sys.modules[models[name].target.__module__]
    assert "\nSource: " in module.__doc__
    assert re.search(r"`[^`]*\([^`]*`", module.__doc__), "write the loss or score as a formula"
