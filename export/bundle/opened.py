"""Chooses the files of a bundle that serve the requested return types, and opens them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.hashes import check_file
from mammoth_compiled.export.bundle.manifest import Manifest
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.formats import runtimes
from mammoth_compiled.export.parity.compare import Difference
from mammoth_compiled.types import ReturnTypes


@dataclass(frozen=True)
class BundleOpener:
    """Opens a bundle, and opens it again after it was updated.

    Attributes:
        path: The directory.
        device: Where the models run.
        returnt: The only return type to serve; None serves all.
        runtime: Name of the format to open.
        precision: `fp32`, `fp16` or `int8`.
    """

    path: Path
    device: torch.device
    returnt: ReturnTypes | None
    runtime: str
    precision: str

    def open(self) -> "OpenedBundle":
        """Checks and opens the files that are needed, each once.

        Raises:
            ExportError: If the bundle lacks what is requested, or a file is missing, damaged or
                cannot run here.
        """
        manifest = read_manifest(self.path)
        runtime = runtimes()[self.runtime]
        opened: dict[tuple[str, tuple[str, ...]], Run] = {}
        runs: dict[ReturnTypes, Run] = {}
        parity: dict[str, Difference] = {}
        for returnt, names in self._entries(manifest).items():
            candidates = [
                (file, outputs)
                for file in manifest.models
                if file.format == self.runtime and file.precision == self.precision
                for outputs in runtime.output_sets(file)
                if set(names) <= set(outputs)
            ]
            if not candidates:
                raise ExportError(self._message_missing(manifest), "missing")
            # The smallest file if only one return type is served, else one file for all of them.
            choose = min if self.returnt else max
            file, outputs = choose(candidates, key=lambda candidate: len(candidate[1]))
            key = (file.path, outputs)
            if key not in opened:
                path = check_file(self.path, file)
                opened[key] = runtime.open_model(path, file, outputs, self.device)
            runs[returnt] = opened[key]
            parity |= {name: file.parity[name] for name in outputs if name in file.parity}
        return OpenedBundle(manifest, runs, parity)

    def _entries(self, manifest: Manifest) -> dict[ReturnTypes, tuple[str, ...]]:
        """Returns the return types to serve, each with the outputs it needs."""
        entries = manifest.interface.entries
        if self.returnt is None:
            return entries
        if self.returnt not in entries:
            raise ExportError(
                f"the bundle {self.path} has no {str(self.returnt)!r}; it has: "
                f"{', '.join(repr(str(returnt)) for returnt in entries)}",
                "contract",
            )
        return {self.returnt: entries[self.returnt]}

    def _message_missing(self, manifest: Manifest) -> str:
        available = sorted({f"{file.format} ({file.precision})" for file in manifest.models})
        return (
            f"the bundle {self.path} has no file for runtime {self.runtime!r} in "
            f"{self.precision}; it has: {', '.join(available) or 'no model'}. Export with "
            f"--formats {self.runtime}"
        )


@dataclass(frozen=True)
class OpenedBundle:
    """One version of a bundle, opened.

    Attributes:
        manifest: Its manifest.
        runs: Return type to the model that computes it.
        parity: Output name to the largest difference from eager mode, measured at export.
    """

    manifest: Manifest
    runs: Mapping[ReturnTypes, Run]
    parity: Mapping[str, Difference]
