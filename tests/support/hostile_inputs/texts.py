"""Hostile files of text: configurations, sweeps, results of runs, Python code of Mammoth."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hostile_inputs.harness import ACCEPTED, EITHER, REFUSED, Input, command

MODEL = "model: sgd\ndataset: seq-fmnist-mini\nbackbone: mnistmlp\n"


def laughs(depth: int = 12, width: int = 10) -> str:
    """Returns YAML of a few lines that stands for `width ** depth` values."""
    lines = [f"a0: &a0 [{', '.join(['0.1'] * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    return "\n".join(lines) + f"\nlr: *a{depth - 1}\n"


# Files that are no YAML of arguments by name.
YAML: dict[str, str | bytes] = {
    "list": "- lr: 0.1",
    "text": "lr",
    "number": "3",
    "null in a list": "[null]",
    "two documents": "lr: 0.1\n---\nlr: 0.2",
    "tabs": "lr:\t0.1\n\tseed: 1",
    "not closed": "lr: [0.1",
    "a tag that runs code": "lr: !!python/object/apply:os.system ['touch ran']",
    "an unknown tag": "lr: !ohm 3",
    "an alias without anchor": "lr: *x",
    "a list in itself": "lr: &a [*a]",
    "a mapping in itself": "optimizer: &a {lr: *a}",
    "aliases for 10^12 values": laughs(),
    "aliases for 10^12 values in a key": laughs() + "? *a11\n: 1",
    "deep lists": "lr: " + "[" * 50_000 + "]" * 50_000,
    "deep mappings": "{lr: " * 5_000 + "}" * 5_000,
    "a name twice": "lr: 0.1\nlr: 0.2",
    "a name twice in a section": "optimizer: {lr: 0.1, lr: 0.1}",
    "a number as a name": "3: 1",
    "null as a name": "~: 1",
    "a list as a name": "? [lr]\n: 1",
    "a mapping as a name": "? {lr: 1}\n: 1",
    "a date that is none": "lr: 2001-99-99",
    "a date": "lr: 2001-01-01",
    "binary": "lr: !!binary aGVsbG8=",
    "binary that is none": "lr: !!binary '%'",
    "a set": "lr: !!set {0.1, 0.2}",
    "pairs": "lr: !!omap [a: 1]",
    "an unknown argument": "learning_rate: 1",
    "an unknown section": "optimiser: {lr: 1}",
    "a section that is a list": "optimizer: [1]",
    "a section in a section": "optimizer: {optimizer: {lrr: 0.1}}",
    "an integer of 5,000 digits": "seed: " + "9" * 5_000,
    "a float beyond float64": "lr: 1e999",
    "infinity": "lr: .inf",
    "NaN": "lr: .nan",
    "a boolean as a number": "lr: true",
    "a text as a number": "lr: '0,1'",
    "a mapping as a number": "lr: {a: 1}",
    "a range without a sweep": "lr: {low: 0.1, high: 1}",
    "an empty list": "lr: []",
    "a list of lists": "lr: [[0.1]]",
    "a null byte": "notes: 'a\0b'",
    "an escaped null byte": 'notes: "a\\0b"',
    "an escaped surrogate": 'notes: "\\ud800"',
    "control characters": "notes: 'a\x07b'",
    "not UTF-8": b"notes: \xff\xfe",
    "UTF-16": "lr: 0.1".encode("utf-16"),
    "UTF-32": "lr: 0.1".encode("utf-32"),
    "a long name": "n" * 100_000 + ": 1",
    "a model that is a list in a list": "model: [[sgd]]",
    "a model that is a number": "model: 3",
    "a dataset that is null": "dataset: null\nmodel: sgd",
    "a merge of a number": "<<: 3",
    "a merge of nothing": "<<: [1]",
    "too many alternatives": "\n".join(
        f"{name}: [{', '.join(map(str, range(1, 101)))}]"
        for name in ("lr", "batch_size", "n_epochs", "seed", "clip_grad", "optim_wd", "log_every")
    ),
    "more than a file has": "# " + "x" * 2**24,
}

# Paths at which there is no regular file.
PLACES: dict[str, Callable[[Path], Any]] = {
    "absent": lambda path: None,
    "a directory": Path.mkdir,
    "a FIFO": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "/dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "/dev/null": lambda path: path.symlink_to("/dev/null"),
    "/dev/full": lambda path: path.symlink_to("/dev/full"),
    "a socket": lambda path: _socket(path),
    "4 TiB of zeros": lambda path: _sparse(path),
}


def _socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2**42)


def writer(name: str, content: str | bytes) -> Callable[[], int]:
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    return lambda: Path(name).write_bytes(data)


def places(kind: str, name: str, call: Callable[[], Any]) -> Iterator[Input]:
    """Yields a call that reads a file, for each of `PLACES` at the path of the file."""
    for what, make in PLACES.items():
        expected = EITHER if what in ("/dev/null", "/dev/full") else REFUSED
        yield Input(kind, f"{name}: {what}", call, expected, lambda m=make: m(Path(name)))


def configurations() -> Iterator[Input]:
    """Yields configuration files of `run`."""
    run = command("run", "--config", "c.yaml", "--model=sgd", "--dataset=seq-fmnist-mini")
    dry = command("run", "--config", "c.yaml", "--dry_run")
    for what, content in YAML.items():
        call = dry if "model" in what or "dataset" in what else run
        yield Input("configuration files", what, call, REFUSED, writer("c.yaml", content))
    for what in ("lr: 0.1", "optimizer: {lr: 0.1}", "x: 1"):
        text = MODEL + what
        expected = REFUSED if what == "x: 1" else ACCEPTED
        yield Input("configuration files", what, dry, expected, writer("c.yaml", text))
    yield from places("configuration files", "c.yaml", run)


SWEEP = "sweep: {method: random, trials: 2}\nvalidation: 0.1\n"
SECTIONS = [
    *("3", "[]", "null", "'grid'", "{method: 3}", "{method: null}", "{method: [grid]}"),
    *("{trials: 0}", "{trials: -1}", "{trials: 1.5}", "{trials: '3'}", "{trials: true}"),
    *("{metric: loss}", "{pruning: asha}", "{pruning: median}", "{seed: -1}", "{seed: x}"),
    *("{metod: tpe}", "{3: 4}", "{method: {a: 1}}", "{trials: {low: 1, high: 2}}"),
]
RANGES = [
    *("{low: 1}", "{high: 1}", "{low: 1, high: 0}", "{low: 1, high: 1}", "{low: a, high: b}"),
    *("{low: 0, high: 1, log: true}", "{low: 0.1, high: 1, log: maybe}", "{low: .nan, high: 1}"),
    *("{low: 0.1, high: .inf}", "{low: 0.1, high: 1, step: 0}", "{low: 0.1, high: 1, step: -1}"),
    *("{low: 0.1, high: 1, step: 1.e-300}", "{low: 0.1, high: 1, step: x}", "{low: [1], high: 2}"),
    *("{low: 0.1, high: 1, log: 3}", "{low: null, high: null}", "{low: true, high: false}"),
    *("{low: 0.1, high: 1, base: 2}", "{low: 0.1, high: 1, log: true, step: 0.1}"),
    *("{low: 0.1, high: 1, step: 5}", f"{{low: 1, high: {'9' * 400}}}", "{low: -1, high: 1}"),
]


def sweeps() -> Iterator[Input]:
    """Yields files of `sweep`."""
    dry = command("sweep", "s.yaml", "--dry_run")
    run = command("sweep", "s.yaml", "--workers", "1")
    for what, content in YAML.items():
        parts = content.encode(errors="surrogatepass") if isinstance(content, str) else content
        text = parts if "model" in what or "dataset" in what else MODEL.encode() + parts
        call = run if "range" in what else dry
        yield Input("sweep files", what, call, REFUSED, writer("s.yaml", text))
    for section in SECTIONS:
        text = f"{MODEL}lr: [0.1, 0.2]\nvalidation: 0.1\nsweep: {section}\n"
        yield Input("sweep files", f"sweep: {section}", dry, REFUSED, writer("s.yaml", text))
    for values in RANGES:
        text = f"{MODEL}{SWEEP}lr: {values}\n"
        yield Input("sweep files", f"lr: {values[:60]}", run, REFUSED, writer("s.yaml", text))
    others = {
        "nothing varies": MODEL + SWEEP,
        "a search without validation": f"{MODEL}sweep: {{method: random}}\nlr: [0.1, 0.2]",
        "a range in a grid": f"{MODEL}lr: {{low: 0.1, high: 1}}",
        "an output that runs would share": f"{MODEL}lr: [0.1, 0.2]\nresults_path: r.json",
        "an unknown model among others": "model: [sgd, derp]\ndataset: seq-fmnist-mini",
        "a range of an unknown argument": f"{MODEL}{SWEEP}lrr: {{low: 0.1, high: 1}}",
        "a range of models": f"dataset: seq-fmnist-mini\n{SWEEP}model: {{low: 1, high: 2}}",
        "an out of range alternative": f"{MODEL}lr: [0.1, -1]",
        "alternatives of different kinds": f"{MODEL}lr: [0.1, {{low: 1, high: 2}}]",
    }
    for what, text in others.items():
        yield Input("sweep files", what, run, REFUSED, writer("s.yaml", text))
    yield from places("sweep files", "s.yaml", dry)


PYTHON: dict[str, str | bytes] = {
    "not Python": "this file is no Python",
    "an open bracket": "import utils.conf (",
    "deep brackets": "(" * 10_000,
    "deep operators": "x = " + "-" * 100_000 + "1",
    "a null byte": "import utils.conf\0",
    "not UTF-8": b"import \xff",
    "an unknown encoding": "# coding: klingon\nimport utils.conf",
    "UTF-16": "import os".encode("utf-16"),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "too long": b"#" * (2**24 + 1),
    "a surrogate": "x = '\ud800'".encode(errors="surrogatepass"),
    "bad indentation": "if 1:\nimport utils.conf",
}


def programs() -> Iterator[Input]:
    """Yields files that `compat` renames."""
    call = command("compat", "m.py", "--out", "renamed")
    for what, content in PYTHON.items():
        expected = EITHER if what in ("an unknown encoding",) else REFUSED
        write = writer("m.py", content)
        yield Input("programs", what, call, expected, write)
    yield from places("programs", "m.py", call)
    for what, make in PLACES.items():
        if what in ("absent", "a directory", "a link to nothing"):
            continue

        def write(make: Callable[[Path], Any] = make) -> None:
            Path("m.py").write_text("from utils.buffer import Buffer\n")
            make(Path("renamed"))

        yield Input("programs", f"--out: {what}", call, REFUSED, write)
