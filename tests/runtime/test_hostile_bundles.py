"""The C++ runtime refuses the bundles that the Python package refuses; ctest runs this file."""

import os
import resource
import subprocess
from pathlib import Path

import pytest
import torch

if "MAMMOTH_VERDICT" not in os.environ:
    pytest.skip("run by ctest in a build of the C++ runtime", allow_module_level=True)

from hostile_bundles import BUNDLES, UNUSED, hostile_manifests, write

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import load_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest

TOOL, VERDICT = os.environ["MAMMOTH_RUN"], os.environ["MAMMOTH_VERDICT"]
BUNDLE = Path(os.environ["MAMMOTH_BUNDLE"])
IS_SANITIZED = b"__asan_init" in Path(TOOL).read_bytes()


def limit_memory() -> None:
    """Allows the tool 4 GiB of addresses; AddressSanitizer reserves terabytes."""
    if not IS_SANITIZED:
        resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))


def run(*command: object, directory: Path = Path()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        timeout=600,
        cwd=directory,
        preexec_fn=limit_memory,
    )


def test_both_readers_refuse_the_same_manifests(tmp_path):
    corpus = list(hostile_manifests((BUNDLE / "manifest.json").read_text()))
    names = [f"{i}.json" for i in range(len(corpus))]
    for name, (_, text, _) in zip(names, corpus, strict=True):
        (tmp_path / name).write_bytes(text)
    done = run(VERDICT, *names, directory=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    wrong = []
    lines = done.stdout.splitlines()
    for name, line, (what, _, valid) in zip(names, lines, corpus, strict=True):
        (tmp_path / name).replace(bundle / "manifest.json")
        try:
            read_manifest(bundle)
            code = "ok"
        except ExportError as error:
            code = error.code
        # The C++ runtime runs the other files of a bundle with a format that it does not know; the
        # Python package needs the plug-in that adds the format.
        if ".format " in what and line == "ok":
            line = code
        if line.split("\t")[0] != code or valid != (code == "ok"):
            wrong.append(f"{what}: Python {code}, C++ {line}")
    assert not wrong, f"{len(wrong)} of {len(corpus)}:\n" + "\n".join(wrong[:40])


@pytest.mark.parametrize("name", BUNDLES)
def test_both_refuse_the_same_bundles(tmp_path, name):
    images = tmp_path / "images.npy"
    images.write_bytes((BUNDLE / "golden/input.npy").read_bytes())
    bundle = write(BUNDLE, tmp_path, name)
    done = run(TOOL, bundle, images, "--returnt", "both", "--threads", 1)
    assert done.returncode == (0 if name in UNUSED else 2), done.stderr
    if name in UNUSED:
        load_bundle(bundle)
        return
    assert done.stderr.startswith("error (")
    assert done.stderr.count("\n") == 1
    with pytest.raises(ExportError):
        load_bundle(bundle)(torch.zeros(1, 3, 16, 20))
