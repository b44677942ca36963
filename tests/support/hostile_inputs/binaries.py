"""Hostile files that are not text: checkpoints, bundles, images, caches."""

import copy
import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hostile_bundles import BUNDLES, UNUSED, hostile_manifests, write

from hostile_inputs.harness import ACCEPTED, EITHER, REFUSED, Input, command
from hostile_inputs.result_files import changed
from hostile_inputs.texts import places
from mammoth_compiled.checkpoint import FORMAT, VERSION, add_checksum, pack, read_checkpoint
from mammoth_compiled.checkpoint.layout import layout
from mammoth_compiled.export import load_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest

RUN = ["--model=er", "--dataset=seq-fmnist-mini", "--backbone=mnistmlp", "--buffer_size=20"]
RUN += ["--compile=off", "--seed=0", "--debug_mode=1", "--batch_size=8", "--hidden_size=4"]
SAVED = "er_seq-fmnist-mini_mnistmlp_seed0_task2.pt"
BIT_FLIPS = 1000


def make_files(directory: Path) -> None:
    """Writes a checkpoint after two of five tasks, `SAVED`, a bundle and `results.json`."""
    paths = [f"--checkpoint_path={directory}", f"--export={directory / 'bundle'}", "--out=off"]
    paths.append(f"--results_path={directory / 'results.json'}")
    command(
        "run", *RUN, *paths, "--savecheck=task", "--stop_after=2", "--formats=onnx,safetensors"
    )()


# --- Checkpoints ----------------------------------------------------------------------------------

WRONG: list[Any] = [None, True, -7, 3, 1.5, float("nan"), float("inf"), 2**70, "x", b"x", [], {}]
WRONG += [[None], {"x": 1}, torch.ones(2), torch.ones(2, dtype=torch.complex64)]
WRONG += [torch.full((3,), torch.nan), torch.zeros(0), torch.zeros(10**4, dtype=torch.uint8)]


def fields(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of the values in a checkpoint; of lists only the first."""
    if path:
        yield path
    if isinstance(content, dict):
        for key in content:
            yield from fields(content[key], (*path, key))
    elif isinstance(content, (list, tuple)) and content and "random" not in path:
        yield from fields(content[0], (*path, 0))


def write_checkpoint(content: Any) -> int:
    """Writes what is to be refused by more than its layout."""
    if isinstance(content.get("layout"), dict):
        content = {**content, "layout": layout(content)}
    return Path("c.pt").write_bytes(add_checksum(pack(content)))


def as_lists(value: Any) -> Any:
    """Returns a copy with lists for tuples, whose entries can be replaced."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, (list, tuple)) else value


def checkpoints(directory: Path) -> Iterator[Input]:
    """Yields damaged checkpoints, and those with a wrong value in any field.

    What the schema cannot know, such as the shapes of weights, is noticed when the run resumes.
    """
    raw = (directory / SAVED).read_bytes()
    good = as_lists(read_checkpoint(directory / SAVED))
    read = partial(read_checkpoint, "c.pt")
    draw = random.Random(0)
    for bit in draw.sample(range(8 * len(raw)), BIT_FLIPS):
        data = bytearray(raw)
        data[bit // 8] ^= 1 << bit % 8
        put = partial(_put, "c.pt", bytes(data))
        yield Input("checkpoints", f"bit {bit} flipped", read, REFUSED, put, shares=True)
    for size in [0, 1, 4, 100, *draw.sample(range(len(raw)), 40)]:
        put = partial(_put, "c.pt", raw[:size])
        yield Input("checkpoints", f"first {size} bytes", read, REFUSED, put, shares=True)
    resume = command("run", *RUN, "--loadcheck=c.pt", "--out=off", "--stop_after=3")
    seen = 0
    for path in fields(good):
        for value in WRONG:
            seen += 1
            # Reading is quick; a few are used as well, which trains a task if it is valid.
            call = resume if seen % 29 == 0 else read
            what = f"{'.'.join(map(str, path))} = {str(value)[:20]!r}"
            put = partial(_put_changed, good, path, value)
            shares = call is read
            yield Input("checkpoints", what, call, EITHER, put, shares=shares)
    others = {
        "version": {"version": VERSION + 1},
        "format": {"format": "another"},
        "text as version": {"version": "2"},
        "nothing but a format": {},
    }
    for what, entries in others.items():
        content = {**good, **entries} if entries else {"format": FORMAT, "version": VERSION}
        yield Input("checkpoints", what, read, REFUSED, partial(write_checkpoint, content))
    for what, value in endless().items():
        for section in ("args", "compute", "results"):
            content = {**good, section: {**good[section], "x": value}}
            put = partial(Path("c.pt").write_bytes, add_checksum(pack(content)))
            yield Input("checkpoints", f"{section}: {what}", read, REFUSED, put)
    yield from places("checkpoints", "c.pt", command("run", *RUN, "--loadcheck=c.pt", "--out=off"))
    yield from places("checkpoints", "c.pt", command("export", "c.pt", "bundle"))


def endless() -> dict[str, Any]:
    """Returns small values that stand for billions of lists."""
    same: list[Any] = []
    for _ in range(12):
        same = [same] * 20
    itself: dict[str, Any] = {}
    itself["x"] = itself
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    return {"the same lists": same, "itself": itself, "deep": deep}


def _put(name: str, data: bytes) -> None:
    Path(name).write_bytes(data)


def _put_changed(good: Any, path: tuple[Any, ...], value: Any) -> None:
    write_checkpoint(changed(good, path, copy.deepcopy(value)))


# --- Bundles --------------------------------------------------------------------------------------


def bundles(directory: Path) -> Iterator[Input]:
    """Yields manifests and directories of bundles; `mammoth-run` refuses the same ones."""
    good = directory / "bundle"
    for what, text, valid in hostile_manifests((good / "manifest.json").read_text()):
        put = partial(_put, "manifest.json", text)
        expected = ACCEPTED if valid else REFUSED
        yield Input("bundles", what, _read_manifest, expected, put, shares=True)
    for name in BUNDLES:
        copied = partial(write, good, Path(), name)
        yield Input(
            "bundles",
            f"verify: {name}",
            command("export", "verify", "bundle"),
            REFUSED,
            copied,
            check=_nothing,
        )
        if name not in UNUSED:
            yield Input("bundles", f"load: {name}", _load, REFUSED, copied)


def _read_manifest() -> None:
    read_manifest(Path())


def _load() -> None:
    bundle = load_bundle("bundle")
    bundle(torch.zeros(1, *read_manifest(Path("bundle")).info.input_shape))


def _nothing() -> str:
    return ""
