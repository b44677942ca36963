"""What the contract tests need to know of a registered name beyond its registry entry.

It is declared next to the tests of the module that registers the name: `CASES` in
`tests/backbones/test_resnet.py` belongs to `mammoth_compiled/backbones/resnet.py`. A new backbone
or dataset thus needs its own test file at most, and no edit of a list.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class BackboneCase:
    """A small version of a backbone: the tests are about its structure.

    Attributes:
        arguments: Arguments besides `num_classes`.
        input_shape: (C, H, W) of an image.
        has_full: Whether it supports `ReturnTypes.FULL`.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    input_shape: tuple[int, int, int] = (3, 32, 32)
    has_full: bool = False


@dataclass(frozen=True)
class DatasetCase:
    """The published facts of a dataset, and small files in the format of its source.

    In these files every pixel of an image of class k has the value 10 * (k % 10) + 5, so that a
    test can tell what has become of it.

    Attributes:
        num_tasks: T.
        classes_per_task: Classes of each task; one number for each if they differ.
        input_shape: (C, H, W) of an image.
        train_per_class: Training images of each class in the files, per task in domain-IL.
        test_per_class: Test images of each class in the files.
        is_augmented: Whether its training transform has a random crop and flip.
        write_files: Writes the files for `--data_dir`, and patches checksums; None if the package
            ships the data.
        has_model_defaults: Whether every built-in model has default arguments for it.
        hint: The further remedy at the end of the message about missing data.
        setting: Its `SETTING`.
        stored_size: Height and width of images without augmentation, if not that of the input.
        arguments: Arguments that make its images small.
        needs_files: Whether it is built with its files only.
        is_downloaded: Whether missing files are downloaded.
    """

    num_tasks: int
    classes_per_task: int | tuple[int, ...]
    input_shape: tuple[int, int, int]
    train_per_class: int
    test_per_class: int
    is_augmented: bool = True
    write_files: Callable[[Path, pytest.MonkeyPatch], None] | None = None
    has_model_defaults: bool = False
    hint: str = ""
    setting: str = "class-il"
    stored_size: tuple[int, int] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    needs_files: bool = False
    is_downloaded: bool = True

    @property
    def tasks(self) -> list[tuple[int, int]]:
        """The (first, last + 1) class id of each task."""
        sizes = self.classes_per_task
        if self.setting != "class-il":
            return [(0, sizes)] * self.num_tasks
        sizes = [sizes] * self.num_tasks if isinstance(sizes, int) else list(sizes)
        return [(sum(sizes[:task]), sum(sizes[: task + 1])) for task in range(self.num_tasks)]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.tasks[-1][1]


def case_of(entry, default=None):
    """Returns the case of a registry entry, or `default` if its test file declares none."""
    path = _test_file(entry.target.__module__)
    case = _cases(path).get(entry.name, default)
    if case is None:
        pytest.fail(f"the contract tests need CASES[{entry.name!r}] in {path.relative_to(TESTS)}")
    return case


def names_with_families(registry):
    """Returns the names of a registry, and those of families that a test file has cases for."""
    names = list(registry)
    for family in registry.families:
        names += _cases(_test_file(family.find.__module__))
    return names


def _test_file(module_name):
    *_, folder, module = module_name.split(".")
    return TESTS / folder / f"test_{module}.py"


@cache
def _cases(path):
    if not path.is_file():
        return {}
    spec = importlib.util.spec_from_file_location(f"cases_of_{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, "CASES", {})
