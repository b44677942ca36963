"""Any folder of images with one subfolder per class, as a sequence of tasks."""

import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from torchvision import transforms
from torchvision.datasets.folder import IMG_EXTENSIONS

from mammoth_compiled.console import say
from mammoth_compiled.datasets.image_files import (
    FileList,
    SequentialImageFiles,
    small_image_transforms,
)
from mammoth_compiled.datasets.sampling import sample_per_class
from mammoth_compiled.errors import ConfigError, DataError
from mammoth_compiled.registry import register_dataset
from mammoth_compiled.signatures import Minimum

TEST_FOLDERS = ("test", "val", "valid", "validation")
DEFAULT_TASKS = 5


@register_dataset("seq-folder")
class SequentialFolder(SequentialImageFiles):
    """Your own images: `--data_dir DIR` with one subfolder per class, 5 tasks unless `--n_tasks`.

    `DIR/CLASS/IMAGE`, split into training and test set at random; or `DIR/train/CLASS/IMAGE` and
    `DIR/test/CLASS/IMAGE` (or `val`). Images may have any size and mode: the central square is
    resized, see `datasets.decode.decode`. Classes are learned in the order of their names, which
    an exported bundle contains.

    Args:
        args: The arguments of the run.
        image_size: Height and width of the images that the network sees, pixels.
        test_fraction: Share of the images of each class in the test set, without a test folder.
        split_seed: Seed of that split.

    Raises:
        ConfigError: If `--data_dir` is missing or an argument is out of range.
        DataError: If the folder has fewer than two classes, or a class is missing on one side.
    """

    # Of no use before the folder is known, but every dataset class has them.
    N_CLASSES_PER_TASK: int | list[int] | tuple[int, ...] = 1
    N_TASKS = 1

    def __init__(
        self,
        args: Namespace,
        image_size: Annotated[int, Minimum(8)] = 64,
        test_fraction: Annotated[float, Minimum(0)] = 0.2,
        split_seed: Annotated[int, Minimum(0)] = 0,
    ) -> None:
        data_dir = getattr(args, "data_dir", None)
        if data_dir is None:
            raise ConfigError(
                "seq-folder reads your images from --data_dir DIR, with one subfolder per class: "
                "give it"
            )
        if not 0 < test_fraction < 1:
            raise ConfigError(f"--test_fraction must be above 0 and below 1, got {test_fraction}")
        self._split = find_splits(self.NAME, Path(data_dir), test_fraction, split_seed)
        names, _, _ = self._split
        self.CLASS_NAMES = names
        num_tasks = max(1, min(DEFAULT_TASKS, len(names) // 2))
        parts = np.array_split(np.arange(len(names)), num_tasks)
        self.N_TASKS, self.N_CLASSES_PER_TASK = num_tasks, [len(part) for part in parts]
        self.SIZE = (image_size, image_size)
        self.TRANSFORM, self.TEST_TRANSFORM = small_image_transforms(
            image_size, self.MEAN, self.STD
        )
        super().__init__(args)

    def list_files(self) -> tuple[FileList, FileList]:
        """Returns the files of the folder."""
        _, train, test = self._split
        return train, test

    def determined_by(self, args: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the arguments that determine images and labels, those of the split among them."""
        names = ("image_size", "test_fraction", "split_seed")
        own = {name: args[name] for name in names if name in args}
        return {**super().determined_by(args), **own}

    def get_transform(self) -> Any:  # type: ignore[override]  # depends on --image_size
        """Returns the training transform of replayed images, float tensors in [0, 1]."""
        return transforms.Compose([transforms.ToPILImage(), self.TRANSFORM])


def find_splits(
    dataset: str, root: Path, test_fraction: float, seed: int
) -> tuple[tuple[str, ...], FileList, FileList]:
    """Returns the class names of a folder, its training files and its test files.

    Args:
        dataset: Name of the dataset, for messages.
        root: The folder; see `SequentialFolder`.
        test_fraction: Share of the test set, if there is no test folder.
        seed: Seed of the split, likewise.

    Raises:
        DataError: If there are fewer than two classes, or a class has no image on one side.
    """
    if not root.is_dir():
        raise DataError(f"{dataset}: {root} is not a directory: give --data_dir DIR")
    train_root = root / "train"
    test_root = next((root / name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    if not train_root.is_dir():
        names, files = list_tree(dataset, root)
        return names, *split_files(dataset, names, files, test_fraction, seed)
    names, train = list_tree(dataset, train_root)
    if test_root is None:
        return names, *split_files(dataset, names, train, test_fraction, seed)
    test_names, test = list_tree(dataset, test_root)
    for missing, where in (
        (sorted({*test_names} - {*names}), train_root),
        (sorted({*names} - {*test_names}), test_root),
    ):
        if missing:
            shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
            raise DataError(
                f"{dataset}: {where} has no images of class {shown}: both folders need all classes"
            )
    return names, train, test


def list_tree(dataset: str, root: Path) -> tuple[tuple[str, ...], FileList]:
    """Returns the classes, the subfolders with images, and all images below them, sorted.

    Raises:
        DataError: If there are fewer than two classes.
    """
    try:
        entries = [entry for entry in os.scandir(root) if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{dataset}: cannot read {root}: {error.strerror}") from error
    folders = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in folders:
        if not _is_text(name):
            raise DataError(f"{dataset}: {root} has a subfolder named {name!r}: rename it to UTF-8")
    found = {name: _images(root, name) for name in folders}
    names = tuple(name for name in folders if found[name])
    if len(names) < 2:
        raise DataError(
            f"{dataset}: {root} has images in {len(names)} subfolder{'s' if not names else ''}"
            f"{f' ({names[0]})' if names else ''}, but a sequence of tasks needs at least two "
            f"classes: make one subfolder per class, with images ({', '.join(IMG_EXTENSIONS)})"
        )
    if len(names) < len(folders):
        empty = [name for name in folders if not found[name]]
        say(f"data: {', '.join(empty)} in {root}: no images, hence no class")
    files = [file for name in names for file in found[name]]
    targets = np.repeat(np.arange(len(names)), [len(found[name]) for name in names])
    return names, FileList(root, files, targets)


def _is_text(name: str) -> bool:
    """Returns whether a name can be written to the JSON files of a run."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _images(root: Path, folder: str) -> list[str]:
    found: list[str] = []
    visited: set[str] = set()
    for path, folders, files in os.walk(root / folder, followlinks=True):
        real = os.path.realpath(path)
        if real in visited:  # a link to a folder above it
            folders.clear()
            continue
        visited.add(real)
        found += [
            os.path.relpath(os.path.join(path, file), root)
            for file in files
            if file.lower().endswith(IMG_EXTENSIONS) and not file.startswith(".")
        ]
    return sorted(found)


def split_files(
    dataset: str, names: Sequence[str], files: FileList, test_fraction: float, seed: int
) -> tuple[FileList, FileList]:
    """Splits files at random, the same share of each class, into training and test files.

    Raises:
        DataError: If a class has one image only.
    """
    is_test = sample_per_class(files.targets, test_fraction, seed, "test")
    left = np.bincount(files.targets[~is_test], minlength=len(names))
    if not left.all():
        name = names[int(left.argmin())]
        raise DataError(
            f"{dataset}: with --test_fraction {test_fraction:g} no training image of class "
            f"{name!r} is left in {files.root}: it needs more images"
        )

    def part(mask: np.ndarray) -> FileList:
        rows = np.flatnonzero(mask)
        return FileList(files.root, [files.files[i] for i in rows], files.targets[rows])

    return part(~is_test), part(is_test)
