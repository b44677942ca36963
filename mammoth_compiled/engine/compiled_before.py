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
    """Notes that this version compiled before, and a backbone like this for the same batch sizes.

    Args:
        net: The backbone.
        batch_sizes: Batch sizes it is compiled for.
        amp: AMP mode.
    """

    def __init__(self, net: MammothBackbone, batch_sizes: set[int], amp: str) -> None:
        compiler = [
            source_hash(),
            torch.__version__,
            torch.backends.cpu.get_cpu_capability(),
            str(_inductor_cache()),
        ]
        backbone = [
            f"{type(net).__module__}.{type(net).__qualname__}",
            str(sorted(batch_sizes)),
            amp,
            *(f"{name} {list(p.shape)}" for name, p in net.named_parameters()),
        ]
        # The note of each level implies those after it.
        self._notes = {
            "cached": _note([*compiler, *backbone]),
            "prepared": _note(compiler),
        }

    def level(self) -> str:
        """Returns what the cache has: a key of `cost.COMPILE_S`.

        Returns:
            "cached" if it has the code of this backbone, "prepared" if this version compiled
            another one here, so that the C++ library is there, else "first".
        """
        if not _inductor_cache().is_dir():
            return "first"
        # Unlike `Path.exists`, also for a folder that cannot exist.
        found = (level for level, note in self._notes.items() if os.path.exists(note))
        return next(found, "first")

    def remember(self) -> None:
        """Makes the notes, unless the cache folder is not writable."""
        with contextlib.suppress(MammothError):
            for note in self._notes.values():
                write_atomically(note, b"")


def _note(parts: list[str]) -> Path:
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:20]
    return user_cache() / "compiled" / digest


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
