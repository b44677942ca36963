"""The data folder, and the error for files that are missing and cannot be downloaded."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import download_url, extract_archive

from mammoth_compiled.config import RunConfig
from mammoth_compiled.device import base_path
from mammoth_compiled.errors import DataError


def data_dir(config: RunConfig) -> Path:
    """Returns the folder of the data: `--data_dir`, or `base_path()` if it is not given."""
    return Path(config.files.data_dir or base_path())


def load_or_download(
    name: str, load: Callable[[], Any], searched: list[Path], hint: str = ""
) -> Any:
    """Calls a function that downloads missing files; explains the remedy if it fails.

    Args:
        name: Name of the dataset, for the message.
        load: Downloads the files, or loads them if they exist.
        searched: Folders in which the files may be, for the message.
        hint: A further remedy, a full sentence or command.

    Returns:
        The result of `load`.

    Raises:
        DataError: If `load` raises anything.

    Example:
        >>> load_or_download("seq-x", lambda: 3, searched=[])
        3
    """
    try:
        return load()
    except Exception as error:  # torchvision passes on whatever the network stack raises
        folders = ", ".join(str(folder) for folder in searched)
        reason = " ".join(str(error).split())
        message = (
            f"{name}: the data is not in {folders}, and the download failed "
            f"({type(error).__name__}: {reason}). Put the files there or give --data_dir DIR. "
            f"{hint}"
        )
        raise DataError(message.rstrip()) from error


def archive_hint(url: str, md5: str) -> str:
    """Returns the remedy for a missing archive, which contains the folder of the dataset."""
    return f"The archive is {url} (MD5 {md5}); extract it in the folder of --data_dir."


@dataclass(frozen=True)
class Archive:
    """A published archive of a dataset.

    Attributes:
        url: Where it is.
        md5: Its checksum.
        folder: The folder that it contains.
    """

    url: str
    md5: str
    folder: str

    def find(self, name: str, root: Path) -> Path:
        """Returns the folder of the dataset, downloaded and extracted if it is missing.

        A folder appears only when it is complete, whenever the process is killed.

        Args:
            name: Name of the dataset, for the message.
            root: The data folder.

        Raises:
            DataError: If the folder is missing, and the download fails or has another checksum.
        """
        folder = root / self.folder
        if not folder.is_dir():
            hint = archive_hint(self.url, self.md5)
            load_or_download(name, lambda: self._download(root), [folder], hint)
        return folder

    def _download(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
            download_url(self.url, temporary, md5=self.md5)
            archive = next(Path(temporary).iterdir())
            extracted = extract_archive(str(archive), os.path.join(temporary, "extracted"))
            try:
                os.rename(Path(extracted) / self.folder, root / self.folder)
            except OSError:
                if not (root / self.folder).is_dir():  # else another run was faster
                    raise
