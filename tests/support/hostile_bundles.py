"""Bundles that must be refused, each made from a good one by a small change.

The tests of the Python package and those of the C++ runtime run the same bundles.
"""

import copy
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mammoth_compiled.export.bundle.hashes import sha256

Json = Any
ABSENT = object()
MAX_FLOAT32 = float(np.finfo(np.float32).max)

# --- Manifests: every field with every kind of wrong value ----------------------------------------

WRONG_VALUES: tuple[Json, ...] = (
    *(ABSENT, None, True, -1, 0, 7, 1.5, 1e-50, 1e39, 2**31, 2**53 + 1, 10**20, 10**400),
    *("", "x", "../x", "batch", "a\0b", "x" * 5000, [], [None], [-1], [[]], [[0, 10**12]]),
    *({}, {"x": None}, [[[[]]]]),
)
OPTIONAL = {"name", "created", "dataset", "versions", "preprocessing", "golden"}
OPTIONAL |= {"requires", "parity", "accuracy", "latency"}
FREE_TEXTS = {"name", "created", "dataset", "machine", "inputs"}
MAGNITUDES = {"size", "bound", "median_ms"}


def fields(content: Json, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yields the path of every value in JSON; of a list of equal things only the first."""
    if path:
        yield path
    if isinstance(content, dict):
        for key in content:
            yield from fields(content[key], (*path, key))
    elif isinstance(content, list):
        seen = set()
        for i, item in enumerate(content):
            kind = item.get("format", "") if isinstance(item, dict) else type(item)
            if kind not in seen:
                seen.add(kind)
                yield from fields(item, (*path, i))


def changed(content: Json, path: tuple[str | int, ...], value: Json) -> Json:
    """Returns a copy in which one value is replaced, or removed if the value is `ABSENT`."""
    result = copy.deepcopy(content)
    *parents, last = path
    parent = result
    for key in parents:
        parent = parent[key]
    if value is ABSENT:
        del parent[last]
    else:
        parent[last] = value
    return result


def is_valid(content: Json, path: tuple[str | int, ...], value: Json) -> bool:
    """Returns whether a manifest may have this value, wrong as it looks."""
    last, parent = path[-1], path[-2] if len(path) > 1 else ""
    at_contract = "contract" in path
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is ABSENT and (parent in ("versions", "requires", "accuracy", "parity")):
        return True
    if value in (ABSENT, None) and last in OPTIONAL and not at_contract:
        return True
    if value is ABSENT and last == "reference":  # of a comparison; older bundles lack it
        return True
    if value == {} and last in ("versions", "requires", "parity", "accuracy"):
        return True
    if value is ABSENT and parent == "files":
        return content["files"][last]["format"] != "golden"
    if last == "softmax" and value is True:
        return True
    if last == "path" and path[0] == "files" and isinstance(value, str):
        is_golden = content["files"][path[1]]["format"] == "golden"
        return not is_golden and value.strip("xbatch") == "" and value != ""
    if isinstance(value, str):
        free = last in FREE_TEXTS and not at_contract and parent not in ("contract", "input")
        return free or parent in ("versions", "requires", "names")
    if value == [] and last == "names":
        return True
    if is_number and last in MAGNITUDES:
        return 0 <= value <= MAX_FLOAT32
    if last in ("calls", "batch_size"):
        return isinstance(value, int) and is_number and 0 < value <= 2**53
    if is_number and (parent == "accuracy" or parent == "mean"):
        return abs(value) <= MAX_FLOAT32
    if is_number and (last == "scale" or parent == "std"):
        return value <= MAX_FLOAT32 and bool(np.float32(value) > 0)
    if last == "bytes":
        return isinstance(value, int) and is_number and 0 <= value <= 2**31
    if parent == "ids":
        ids = [k for i, k in enumerate(content["classes"]["ids"]) if i != last]
        return isinstance(value, int) and is_number and 0 <= value <= 2**53 and value not in ids
    return False


def hostile_manifests(good: str) -> Iterator[tuple[str, bytes, bool]]:
    """Yields (description, text, whether it is valid) for changes of a manifest."""
    content = json.loads(good)
    for path in fields(content):
        for value in WRONG_VALUES:
            what = f"{'.'.join(map(str, path))} {'absent' if value is ABSENT else repr(value)[:40]}"
            text = json.dumps(changed(content, path, value))
            if changed(content, path, value) != content:
                yield what, text.encode(), is_valid(content, path, value)
    whole = good.rstrip()  # complete without the last line break
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        yield f"first {cut} bytes", whole.encode()[:cut], False
    body = whole[:-1]
    for what, text in {
        "NaN": f'{body}, "later": NaN}}',
        "infinite": f'{body}, "later": -Infinity}}',
        "beyond float64": f'{body}, "later": 1e400}}',
        "integer beyond float64": f'{body}, "later": {"9" * 400}}}',
        "integer of many digits": f'{body}, "later": {"9" * 5000}}}',
        "surrogate": f'{body}, "later": "\\ud800"}}',
        "surrogate in a key": f'{body}, "\\udc00": 1}}',
        "control character": f'{body}, "later": "\n"}}',
        "deep list": f'{body}, "later": {"[" * 64}{"]" * 64}}}',
        "very deep list": f'{body}, "later": {"[" * 50_000}{"]" * 50_000}}}',
        "deep object": f'{body}, "later": {(chr(123) + chr(34) + "a" + chr(34) + ":") * 64}1'
        f"{'}' * 64}}}",
        "trailing comma": f"{body},}}",
        "comment": f"{body} /* x */ }}",
        "second value": good + "{}",
        "byte order mark": "\ufeff" + good,
        "null byte": good + "\0",
        "leading zero": f'{body}, "later": 01}}',
        "list": f"[{good}]",
        "string": json.dumps(good),
        "too long": good + " " * 2**20,
    }.items():
        yield what, text.encode(), False
    yield "not UTF-8", good.encode().replace(b'"schema"', b'"schem\xff": 1, "schema"'), False
    yield "UTF-16", good.encode("utf-16"), False
    yield "deep enough", f'{body}, "later": {"[" * 63}{"]" * 63}}}'.encode(), True
    yield "large integer", f'{body}, "later": {"9" * 300}}}'.encode(), True
    yield "unchanged", good.encode(), True


# --- Directories ----------------------------------------------------------------------------------

Change = Callable[[Path], None]
# Name to a function that damages a bundle. Those in UNUSED concern files that no model needs: they
# are noticed by verification and update, not when a model is loaded.
BUNDLES: dict[str, Change] = {}
UNUSED: set[str] = set()


def hostile_bundle(name: str, unused: bool = False) -> Callable[[Change], Change]:
    """Registers a function that damages a bundle."""

    def register(change: Change) -> Change:
        BUNDLES[name] = change
        if unused:
            UNUSED.add(name)
        return change

    return register


def edit(bundle: Path, change: Callable[[Json], object]) -> None:
    """Changes the JSON of a bundle's manifest."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def entry_of(content: Json, name: str) -> Json:
    """Returns the entry of a file."""
    return next(file for file in content["files"] if file["path"] == name)


def rehash(bundle: Path, name: str) -> None:
    """Updates size and hash of a file in the manifest."""
    path = bundle / name
    new = {"sha256": sha256(path), "bytes": path.stat().st_size}
    edit(bundle, lambda content: entry_of(content, name).update(new))


def overwrite(bundle: Path, name: str, data: bytes) -> None:
    """Replaces a file, with a matching hash."""
    (bundle / name).write_bytes(data)
    rehash(bundle, name)


def replace_by(bundle: Path, name: str, make: Callable[[Path], object]) -> None:
    """Replaces a file by something that `make` creates at its path."""
    path = bundle / name
    path.unlink()
    make(path)


MODEL, WEIGHTS, GOLDEN = "model.onnx", "weights.safetensors", "golden/input.npy"
FILES = {MODEL: False, WEIGHTS: True, GOLDEN: True, "golden/out.npy": True}


# Links that are refused even if nothing reads the file.
ESCAPES = {
    *("a link to itself", "two links to each other", "a link out of the bundle"),
    *("/dev/zero", "/dev/full"),
}


def _register_files() -> None:
    def loop(path: Path) -> None:
        path.symlink_to(path.name)

    def long_loop(path: Path) -> None:
        other = path.with_name("loop")
        other.symlink_to(path.name)
        path.symlink_to(other.name)

    def special(target: str) -> Callable[[Path], None]:
        return lambda path: path.symlink_to(target)

    def sparse(path: Path) -> None:
        with path.open("wb") as stream:
            stream.truncate(2**42)

    def dangling(path: Path) -> None:
        path.symlink_to("nothing")

    makers = {
        "a FIFO": os.mkfifo,
        "a directory": Path.mkdir,
        "a link to itself": loop,
        "two links to each other": long_loop,
        "a link out of the bundle": special("/etc/passwd"),
        "a link to nothing": dangling,
        "/dev/zero": special("/dev/zero"),
        "/dev/full": special("/dev/full"),
        "absent": lambda path: None,
        "empty": Path.touch,
        "4 TiB of zeros": sparse,
    }
    for name, unused in FILES.items():
        for what, make in makers.items():
            everywhere = what in ESCAPES
            hostile_bundle(f"{name}: {what}", unused and not everywhere)(
                lambda bundle, name=name, make=make: replace_by(bundle, name, make)
            )
        hostile_bundle(f"{name}: one bit", unused)(
            lambda bundle, name=name: (bundle / name).write_bytes(
                bytes([(data := (bundle / name).read_bytes())[0] ^ 1]) + data[1:]
            )
        )
        for keep in (0, 8, 100, 0.5):

            def truncate(bundle: Path, name: str = name, keep: float = keep) -> None:
                data = (bundle / name).read_bytes()
                overwrite(bundle, name, data[: int(keep * len(data)) if keep == 0.5 else keep])

            hostile_bundle(f"{name}: first {keep} with a matching hash", unused)(truncate)
        hostile_bundle(f"{name}: garbage with a matching hash", unused)(
            lambda bundle, name=name: overwrite(bundle, name, b"\x5a" * 1000)
        )
    for what, make in makers.items():
        if what not in ("a link to nothing",):
            hostile_bundle(f"manifest.json: {what}")(
                lambda bundle, make=make: replace_by(bundle, "manifest.json", make)
            )


_register_files()


@hostile_bundle("the directory is a link to itself")
def _(bundle: Path) -> None:
    shutil.rmtree(bundle)
    bundle.symlink_to(bundle.name)


@hostile_bundle("a directory of the golden files leaves the bundle")
def _(bundle: Path) -> None:
    shutil.rmtree(bundle / "golden")
    (bundle / "golden").symlink_to("/etc")


@hostile_bundle("claims 2^36 bytes more")
def _(bundle: Path) -> None:
    edit(bundle, lambda content: entry_of(content, MODEL).update(bytes=2**36))


@hostile_bundle("a sparse model of its claimed size")
def _(bundle: Path) -> None:
    replace_by(bundle, MODEL, Path.touch)
    with (bundle / MODEL).open("wb") as stream:
        stream.truncate(2**35)
    edit(bundle, lambda content: entry_of(content, MODEL).update(bytes=2**35))


@hostile_bundle("the model of other outputs")
def _(bundle: Path) -> None:
    shutil.copy(bundle / "model.features.onnx", bundle / MODEL)
    rehash(bundle, MODEL)


@hostile_bundle("outputs of another size")
def _(bundle: Path) -> None:
    def change(content: Json) -> None:
        classes, (out, *_) = content["classes"], content["contract"]["outputs"]
        out["shape"][1] += 1
        classes["ids"].append(max(classes["ids"]) + 1)
        classes["names"] = []

    edit(bundle, change)


@hostile_bundle("inputs of another size")
def _(bundle: Path) -> None:
    edit(bundle, lambda content: content["contract"]["input"]["shape"].__setitem__(3, 4096))


@hostile_bundle("full maps that no model computes")
def _(bundle: Path) -> None:
    def change(content: Json) -> None:
        content["contract"]["outputs"].append(
            {"name": "full_0", "dtype": "float32", "shape": ["batch", 2, 2]}
        )
        content["contract"]["returnt"].append("full")
        entry_of(content, MODEL)["outputs"].append("full_0")
        content["golden"]["outputs"]["full_0"] = "golden/out.npy"

    edit(bundle, change)


@hostile_bundle("another file is the golden input", unused=True)
def _(bundle: Path) -> None:
    edit(bundle, lambda content: content["golden"].update(input="golden/out.npy"))


@hostile_bundle("no golden files", unused=True)
def _(bundle: Path) -> None:
    edit(bundle, lambda content: content.pop("golden"))


def npy(bundle: Path, header: str, data: bytes = b"") -> None:
    """Overwrites the golden input by an array with this header."""
    text = header.encode().ljust(118) + b"\n"
    prefix = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
    overwrite(bundle, GOLDEN, prefix + text + data)


NPY_HEADERS = {
    "huge": "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 3)}",
    "overflow": "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4)}",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 3)}",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "float16": "{'descr': '<f2', 'fortran_order': False, 'shape': (0, 3)}",
    "big-endian": "{'descr': '>f4', 'fortran_order': False, 'shape': (0, 3)}",
    "code": "__import__('os').abort()",
    "no images": "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 3, 16, 20)}",
}
for _what, _header in NPY_HEADERS.items():
    hostile_bundle(f"golden input: {_what}", unused=True)(
        lambda bundle, header=_header: npy(bundle, header)
    )


def safetensors(bundle: Path, header: bytes, length: int | None = None) -> None:
    """Overwrites the weights by a file with this header."""
    size = len(header) if length is None else length
    overwrite(bundle, WEIGHTS, struct.pack("<Q", size) + header)


_TENSOR = b'{"net.w": {"dtype": "F32", "shape": [%s], "data_offsets": [0, %s]}}'
SAFETENSORS = {
    "no JSON": (b"{", None),
    "header of 2^63 bytes": (b"{}", 2**63),
    "header of 2^40 bytes": (b"{}", 2**40),
    "huge tensor": (_TENSOR % (b"1000000000000", b"4000000000000"), None),
    "offsets beyond the file": (_TENSOR % (b"2", b"8"), None),
    "overflow": (_TENSOR % (b"4611686018427387904, 4", b"8"), None),
    "not an object": (b"[]", None),
}
for _what, (_head, _length) in SAFETENSORS.items():
    hostile_bundle(f"weights: {_what}", unused=True)(
        lambda bundle, head=_head, length=_length: safetensors(bundle, head, length)
    )


@hostile_bundle("weights: NaN", unused=True)
def _(bundle: Path) -> None:
    data = bytearray((bundle / WEIGHTS).read_bytes())
    data[-4096:] = b"\xff" * 4096
    overwrite(bundle, WEIGHTS, bytes(data))


@hostile_bundle("weights: of another training", unused=True)
def _(bundle: Path) -> None:
    data = bytearray((bundle / WEIGHTS).read_bytes())
    data[-2] ^= 1
    overwrite(bundle, WEIGHTS, bytes(data))


def _add(weights: dict[str, Any], name: str) -> None:
    weights["other"] = weights[name]


WEIGHT_CHANGES: dict[str, Callable[[dict[str, Any], str], Any]] = {
    "one is missing": lambda weights, name: weights.pop(name),
    "one more": _add,
    "another dtype": lambda weights, name: weights.update({name: weights[name].astype("f8")}),
    "another shape": lambda weights, name: weights.update({name: weights[name].reshape(1, -1)}),
}


def change_weights(bundle: Path, what: str) -> None:
    """Changes a weight in `weights.safetensors`; see `WEIGHT_CHANGES`."""
    from safetensors.numpy import load, save

    data = (bundle / WEIGHTS).read_bytes()
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    weights = load(data)
    WEIGHT_CHANGES[what](weights, min(weights))
    overwrite(bundle, WEIGHTS, save(weights, metadata))


for _what in WEIGHT_CHANGES:
    hostile_bundle(f"weights: {_what}", unused=True)(
        lambda bundle, what=_what: change_weights(bundle, what)
    )


def write(good: Path, directory: Path, name: str) -> Path:
    """Writes one of `BUNDLES` into a new directory and returns its path."""
    bundle = shutil.copytree(good, directory / "bundle")
    BUNDLES[name](bundle)
    return bundle
