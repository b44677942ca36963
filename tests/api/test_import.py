"""Importing the package registers names and has no other side effect."""

import json
import os
import subprocess
import sys

import pytest

SIDE_EFFECTS = """
import json, os, random, sys, warnings
import numpy, torch, torchvision

warnings.simplefilter("error")

def state():
    return {
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "seed": torch.initial_seed(),
        "torch": torch.get_rng_state().tolist(),
        "numpy": numpy.random.get_state()[1].tolist(),
        "python": random.getstate()[1],
        "dtype": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "files": sorted(os.listdir(".")),
        "filters": len(warnings.filters),
    }

before = state()
import mammoth_compiled
after = state()
print(json.dumps({
    "changed": [key for key in before if before[key] != after[key]],
    "cuda": torch.cuda.is_initialized(),
    "modules": sorted(m for m in sys.modules),
}))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Returns the report of an import in a subprocess."""
    result = subprocess.run(
        [sys.executable, "-c", SIDE_EFFECTS],
        cwd=tmp_path_factory.mktemp("import"),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result


def test_import_has_no_side_effects(imported):
    report = json.loads(imported.stdout)
    assert report["changed"] == []
    assert report["cuda"] is False


def test_import_prints_nothing(imported):
    assert imported.stderr == ""
    assert imported.stdout.count("\n") == 1


def test_import_adds_no_generic_module_names(imported):
    # mammoth_lite shadows modules of these names.
    modules = set(json.loads(imported.stdout)["modules"])
    assert not modules & {
        "models",
        "datasets",
        "backbone",
        "backbones",
        "utils",
        "kernels",
        "export",
    }


def test_import_defers_slow_modules(imported):
    modules = set(json.loads(imported.stdout)["modules"])
    assert not modules & {"torch._inductor.compile_fx", "onnxruntime", "onnxscript"}


@pytest.mark.parametrize("name", ["kernels", "export"])
def test_bare_directories_cannot_be_imported(run_python, name, request):
    result = run_python("-c", f"import {name}", cwd=request.config.rootpath)
    assert result.returncode == 1
    assert result.stderr.strip().endswith(
        f"ImportError: import mammoth_compiled.{name}, not {name}"
    )
