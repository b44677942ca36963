"""The wheel: its content, and that it works away from the checkout."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow

USE = """
import json, sys
from pathlib import Path

site = sys.argv[1]
import torch
import mammoth_compiled, mammoth_compiled.export, mammoth_compiled.kernels
from mammoth_compiled.kernels.reservoir import reservoir_slots

paths = [m.__file__ for m in (mammoth_compiled, mammoth_compiled.export, mammoth_compiled.kernels)]
assert all(path.startswith(site) for path in paths), paths

args = {"n_epochs": 1, "debug_mode": 1, "seed": 0, "num_channels": 2, "compile": "off"}
model, dataset = mammoth_compiled.load_runner("derpp", "seq-fmnist-mini", args)
results = mammoth_compiled.train(model, dataset)

net = torch.nn.Linear(3, 2)
x = torch.rand(4, 3)
torch.testing.assert_close(torch.compile(net, backend="mammoth")(x), net(x))
print(json.dumps({"tasks": len(results.class_il), "version": mammoth_compiled.__version__}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if importlib.util.find_spec("scikit_build_core") is None:
        pytest.skip("scikit-build-core is not installed: pip install mammoth-compiled[dev]")
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--wheel-dir", str(folder), str(REPOSITORY)),
        ],
        check=True,
        capture_output=True,
        timeout=1200,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    return zipfile.ZipFile(wheel).namelist()


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_wheel_is_pure_python(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_contains_all_modules(names):
    expected = {
        f"{root}/{path.relative_to(REPOSITORY / folder)}"
        for folder, root in (
            ("mammoth_compiled", "mammoth_compiled"),
            ("kernels", "mammoth_compiled/kernels"),
            ("export", "mammoth_compiled/export"),
        )
        for path in (REPOSITORY / folder).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == expected


def test_wheel_contains_the_packaged_images(names):
    folder = "mammoth_compiled/datasets/files/fashion-mnist-mini"
    for split in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            assert f"{folder}/{split}-{kind}-ubyte.gz" in names


def test_wheel_contains_nothing_else(names):
    # Neither tests nor caches nor further top-level packages.
    tops = {name.split("/")[0] for name in names}
    assert {re.sub(r"-[\d.a-z]+\.dist-info", ".dist-info", top) for top in tops} == {
        "mammoth_compiled",
        "mammoth_compiled.dist-info",
    }
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    assert not [name for name in names if re.search(r"(^|/)(tests|benchmarks|examples)/", name)]
    assert any(name.endswith("/LICENSE") for name in names)


def test_wheel_works_away_from_the_checkout(site, tmp_path):
    # -I keeps the working directory off the path; -S skips .pth files, through which an editable
    # install would bring the checkout back. The dependencies are added by hand.
    paths = [str(site), sysconfig.get_paths()["purelib"]]
    code = f"import sys; sys.path[:0] = {paths}; sys.argv = ['-', {str(site)!r}]\n{USE}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error::UserWarning", "-c", code],
        cwd=tmp_path,
        env={
            **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            "OMP_NUM_THREADS": "1",
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"),
        },
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["tasks"] == 5
    (info,) = Path(site).glob("*.dist-info")
    assert info.name == f"mammoth_compiled-{report['version']}.dist-info"


def test_compiler_backend_is_an_entry_point(site):
    (info,) = Path(site).glob("*.dist-info")
    text = (info / "entry_points.txt").read_text()
    assert "[torch_dynamo_backends]" in text
    assert re.search(r"^mammoth\s*=\s*mammoth_compiled\.compiler\.backend:mammoth$", text, re.M)
