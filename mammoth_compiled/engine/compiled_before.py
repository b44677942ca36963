"""Remembers which backbones were compiled on this machine: PyTorch's cache then has their code."""

import contextlib
import getpass
import hashlib
import os
import tempfile
from pathlib import Path

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.compiler.fingerprint import source_hash
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import user_cache, write_atomically


class CompiledBefore:
    """A note that a backbone like this was compiled by this version for the same batch sizes.

    Args:
        net: The backbone.
        batch_sizes: Batch sizes it is compiled for.
        amp: AMP mode.
    """

    def __init__(self, net: MammothBackbone, batch_sizes: set[int], amp: str) -> None:
        parts = [
            source_hash(),
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            str(_inductor_cache()),
            f"{type(net).__module__}.{type(net).__qualname__}",
            str(sorted(batch_sizes)),
            amp,
            *(f"{name} {list(p.shape)}" for name, p in net.named_parameters()),
        ]
        digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
        self._path = user_cache() / "compiled" / digest

    def __bool__(self) -> bool:
        return self._path.exists() and _inductor_cache().is_dir()

    def remember(self) -> None:
        """Makes the note, unless the cache folder is not writable."""
        with contextlib.suppress(MammothError):
            write_atomically(self._path, b"")


def _inductor_cache() -> Path:
    """Returns the folder of Inductor's cache without importing Inductor, which takes a second."""
    given = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if given:
        return Path(given)
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid_{os.getuid()}"
    return Path(tempfile.gettempdir()) / f"torchinductor_{user}"
