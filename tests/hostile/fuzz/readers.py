"""Atheris target of the Python readers: manifests, checkpoints, YAML, results, run folders.

    python tests/hostile/fuzz/readers.py -max_total_time=600 CORPUS

The first byte selects the reader. Each reads its file or raises `MammothError`; everything else is
a finding. Without Atheris, `read` is called by the tests.
"""

import io
import json
import os
import pickle
import sys
import tempfile
import zipfile
from contextlib import nullcontext
from pathlib import Path

import torch

try:
    import atheris
except ImportError:  # the tests call `read` without it
    atheris = None

# Coverage guides the fuzzer; what is imported here is instrumented.
FUZZES = __name__ == "__main__"
with atheris.instrument_imports(["mammoth_compiled", "yaml"]) if FUZZES else nullcontext():
    from mammoth_compiled.checkpoint import add_checksum, read_checkpoint
    from mammoth_compiled.config.config_file import read_config_file
    from mammoth_compiled.engine.run_folder import CONFIG, read_config
    from mammoth_compiled.errors import MammothError
    from mammoth_compiled.export.bundle.manifest_reader import read_manifest
    from mammoth_compiled.results.schema import read_results_file
    from mammoth_compiled.sweep.space import Range, Search

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
DIRECTORY = Path(tempfile.mkdtemp(prefix="fuzz-", dir=MEMORY))


def write(name: str, data: bytes) -> Path:
    path = DIRECTORY / name
    path.write_bytes(data)
    return path


def manifest(data: bytes) -> None:
    write("manifest.json", data)
    read_manifest(DIRECTORY)


def checkpoint(data: bytes) -> None:
    """Half of the inputs are the pickle of an archive with a checksum, which is read further."""
    if data[:1] < b"\x80":
        read_checkpoint(write("c.pt", data[1:]))
        return
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", data[1:])
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/version", "3\n")
    read_checkpoint(write("c.pt", add_checksum(stream.getvalue())))


def configuration(data: bytes) -> None:
    read_config_file(str(write("c.yaml", data)))


def sweep(data: bytes) -> None:
    values = read_config_file(str(write("s.yaml", data)), keep=("sweep",))
    Search.from_section(values.pop("sweep", {}))
    for name, value in values.items():
        if isinstance(value, dict):
            Range.from_mapping(name, value)


def results(data: bytes) -> None:
    read_results_file(write("results.json", data))


def run_folder(data: bytes) -> None:
    write(CONFIG, data)
    found = read_config(DIRECTORY)
    assert found is None or isinstance(found, dict)


READERS = (manifest, checkpoint, configuration, sweep, results, run_folder)


def read(data: bytes) -> None:
    """Passes bytes to the reader that the first one selects."""
    if not data:
        return
    try:
        READERS[data[0] % len(READERS)](data[1:])
    except MammothError:
        return


def seeds() -> list[bytes]:
    """Returns a small valid file of every kind."""
    stream = io.BytesIO()
    torch.save({"format": "mammoth_compiled checkpoint", "version": 2, "net": {}}, stream)
    config = b"model: sgd\ndataset: seq-x\nlr: 0.1\noptimizer: {optim_mom: 0.9}\n"
    accuracies = {"class_il": [[0.5]], "task_il": [[0.75]], "loss": [None], "config": {"seed": 0}}
    return [
        b"\x00" + json.dumps({"schema": 1, "name": "x", "contract": {}, "classes": {}}).encode(),
        b"\x01\x00" + stream.getvalue(),
        b"\x01\xff" + pickle.dumps({"format": "x", "version": 2, "net": {"a": [1.5]}}, 2),
        b"\x02" + config,
        b"\x03"
        + config
        + b"sweep: {method: tpe, trials: 3}\nalpha: {low: 0.1, high: 1, log: true}",
        b"\x04" + json.dumps(accuracies).encode(),
        b"\x05" + config,
    ]


def main() -> None:
    for i, seed in enumerate(seeds()):
        folder = Path(sys.argv[-1])
        folder.mkdir(exist_ok=True)
        (folder / f"seed{i}").write_bytes(seed)
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
