"""The worked examples of CONTRIBUTING run: each is one file (a kernel: one folder) and its test.

Their files are written into a copy of the repository. There the new tests run, and the contract
tests of the new names.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mammoth_compiled.kernels.runtime.device import has_triton

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
EXAMPLES = TEXT.partition("## Worked examples")[2].partition("\n## ")[0]
BLOCK = re.compile(r"^```(?:python|json)\n(?:#|//) (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REGISTRATION = re.compile(r'^@register_(?:backbone|model|dataset)\("([\w-]+)"\)', re.MULTILINE)


def examples():
    """Returns (title, {path: content}) of every example."""
    sections = re.split(r"^### (.+)$", EXAMPLES, flags=re.MULTILINE)[1:]
    pairs = zip(sections[::2], sections[1::2], strict=True)
    return {title: dict(BLOCK.findall(body)) for title, body in pairs}


@pytest.mark.parametrize(("title", "files"), examples().items(), ids=lambda value: str(value)[:30])
def test_an_example_is_one_file_and_its_test(title, files):
    tests = [path for path in files if path.startswith("tests/")]
    code = {str(Path(path).parent) if "kernels/" in path else path for path in files}
    code -= set(tests) | {"tests/kernels"}
    assert len(tests) == 1
    assert len(code) == (2 if "kernel" in title else 1)
    assert not [path for path in files if (REPOSITORY / path).exists()]


@pytest.mark.slow
def test_examples_run(tmp_path):
    files = {path: text for example in examples().values() for path, text in example.items()}
    for folder in ("mammoth_compiled", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder)
    for folder in ("kernels", "export"):
        # As they are installed.
        shutil.copytree(REPOSITORY / folder, tmp_path / "mammoth_compiled" / folder)
        (tmp_path / folder).symlink_to(tmp_path / "mammoth_compiled" / folder)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    tests = [path for path in files if path.startswith("tests/")]
    names = [name for text in files.values() for name in REGISTRATION.findall(text)]
    chosen = " or ".join([*(Path(path).name for path in tests), *names])
    result = run_python(
        tmp_path,
        "-m",
        "pytest",
        "-v",
        "--color=no",
        "-p",
        "no:cacheprovider",
        *tests,
        "tests/contract",
        "-k",
        chosen,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    for name in [*tests, *(f"[{name}" for name in names)]:
        assert re.search(rf"{re.escape(name)}.* PASSED", result.stdout), name
    if has_triton():
        (op,) = {Path(path).parent.name for path in files if path.startswith("kernels/")}
        command = ("-m", "mammoth_compiled.kernels.check", op, "--quiet")
        result = run_python(tmp_path, *command, TRITON_INTERPRET="0")
        assert result.returncode == 0, result.stdout + result.stderr
        assert ", 0 failed" in result.stdout


def run_python(folder, *argv, **environment):
    """Runs Python with the packages of the copied repository in `folder`."""
    path = os.pathsep.join([str(folder), *sys.path])
    return subprocess.run(
        # -S: an editable install would bring the original repository back.
        [sys.executable, "-S", *argv],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
