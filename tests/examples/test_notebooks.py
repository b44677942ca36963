"""The notebooks run, and are committed with the outputs of a run."""

from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples").glob("*.ipynb"))

# Runs a notebook with the interpreter of the tests, whatever kernels the machine has.
EXECUTE = """
import sys
import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
manager = AsyncKernelManager()
manager._kernel_spec = KernelSpec(argv=argv, language="python")
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, km=manager, timeout=1200, startup_timeout=600).execute()
nbformat.write(notebook, "executed.ipynb")
"""

pytestmark = pytest.mark.slow


def outputs(notebook):
    """Returns, by code cell, the kinds of its outputs: "stream" or the MIME types."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds = (
                output.output_type if output.output_type == "stream" else tuple(sorted(output.data))
                for output in cell.outputs
            )
            found.append(list(dict.fromkeys(kinds)))
    return found


def test_there_are_notebooks():
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["comparing_methods", "first_run", "own_backbone"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, run_python):
    committed = nbformat.read(path, as_version=4)
    assert not any("/tmp/" in str(cell) or "/home/" in str(cell) for cell in committed.cells)
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # executed once, from top to bottom
    environment = {"JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter")}
    result = run_python("-c", EXECUTE, path, **environment)
    assert result.returncode == 0, result.stderr
    executed = nbformat.read(tmp_path / "executed.ipynb", as_version=4)
    assert outputs(executed) == outputs(committed)


PROGRESS = """
import mammoth_compiled as mc
from mammoth_compiled.observers import progress

progress.find_spec = lambda name: None  # as if ipywidgets were not installed
progress.NOTEBOOK_INTERVAL = 0.0
args = {"backbone": "mnistmlp", "debug_mode": 1, "compile": "off"}
results = mc.train(*mc.load_runner("sgd", "seq-fmnist-mini", args))
"""


def test_progress_without_ipywidgets_is_lines(tmp_path, run_python):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PROGRESS)])
    nbformat.write(notebook, tmp_path / "progress.ipynb")
    environment = {"JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter")}
    result = run_python("-c", EXECUTE, tmp_path / "progress.ipynb", **environment)
    assert result.returncode == 0, result.stderr
    (cell,) = nbformat.read(tmp_path / "executed.ipynb", as_version=4).cells
    assert {(output.output_type, output.name) for output in cell.outputs} == {("stream", "stdout")}
    lines = "".join(output.text for output in cell.outputs).splitlines()
    assert all(line.isprintable() for line in lines)
    progress = [line for line in lines if line.startswith("task 2/5, epoch 1: loss ")]
    assert len(progress) == 6
    assert lines[-1].startswith("Accuracy after task 5: ")
    assert len(lines) == 1 + 5 * (6 + 1)
