"""`--help` and `--list` answer without importing torch, which takes seconds."""

import pytest

from mammoth_compiled.config.catalog import KINDS, built_in_names
from mammoth_compiled.registry import backbones, datasets, models

REGISTRIES = {"model": models, "dataset": datasets, "backbone": backbones}

REPORT = """
import sys
from mammoth_compiled.run import run
code = run(sys.argv[1:])
print(code, sorted({"torch", "torchvision", "onnx", "numpy.random"} & set(sys.modules)))
"""


@pytest.mark.parametrize("flag", ["--help", "--list"])
def test_torch_is_not_imported(run_python, flag):
    result = run_python("-c", REPORT, flag)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "0 []"


HELP = """
import runpy, sys
sys.argv = [sys.argv[1], "--help"]
try:
    runpy.run_module(sys.argv[0], run_name="__main__")
except SystemExit as exit:
    print(exit.code, sorted({"torch", "onnx", "pandas", "matplotlib", "ray"} & set(sys.modules)))
"""


@pytest.mark.parametrize("command", ["export", "report", "sweep", "compat"])
def test_help_of_other_commands_imports_no_torch(run_python, command):
    result = run_python("-c", HELP, f"mammoth_compiled.{command}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"usage: python -m mammoth_compiled.{command}")
    assert result.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("kind", KINDS)
def test_names_read_from_source_are_those_registered(kind):
    registered = {
        name: entry.summary
        for name in REGISTRIES[kind]
        if (entry := REGISTRIES[kind][name]).target.__module__.startswith("mammoth_compiled.")
    }
    registered |= {f"{family.prefix}:NAME": family.summary for family in REGISTRIES[kind].families}
    assert built_in_names(kind) == registered


USER_CODE = """
from mammoth_compiled.registry import models, register_model
assert "torch" not in __import__("sys").modules
class Other:
    pass
print("sgd" in models, len(list(models)) > 4)
register_model("sgd")(Other)
print(models["sgd"].target.__name__)
"""


def test_a_registry_knows_the_built_in_parts_whatever_was_imported(run_python):
    result = run_python("-W", "ignore", "-c", USER_CODE)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["True", "True", "Other"]


def test_user_code_replaces_a_built_in_part_that_is_not_imported_yet(run_python):
    code = USER_CODE.replace('print("sgd" in models, len(list(models)) > 4)', "")
    result = run_python("-W", "ignore", "-c", code)
    assert result.stdout.split() == ["Other"], result.stderr
