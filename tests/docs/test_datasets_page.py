"""The table of datasets names every registered dataset, its setting and its number of tasks."""

import re
from pathlib import Path

import pytest

from mammoth_compiled.registry import datasets

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "datasets.md"
LETTERS = {"class-il": "C", "domain-il": "D", "general-continual": "G"}


@pytest.mark.parametrize("name", list(datasets))
def test_dataset_has_a_row(name):
    row = re.search(rf"^\| `{name}` \|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert row, f"add a row for {name} to {PAGE}"
    _, tasks, setting, *_ = (cell.strip() for cell in row[1].split("|"))
    target = datasets[name].target
    assert setting == LETTERS[target.SETTING]
    if name != "seq-folder" and isinstance(target.N_CLASSES_PER_TASK, int) and setting != "G":
        assert tasks.startswith(f"{target.N_TASKS} ")
