"""A sweep on Ray Tune: every run is a run folder, and a killed worker continues."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest

from mammoth_compiled.errors import MammothError
from mammoth_compiled.sweep.ray import run_on_ray


@pytest.mark.parametrize("error", [ValueError("Invalid address: x"), ConnectionError("\nno\n")])
def test_an_address_without_ray(monkeypatch, error):
    def init(**_):
        raise error

    ray = ModuleType("ray")
    ray.init, ray.tune = init, None
    monkeypatch.setitem(sys.modules, "ray", ray)
    reason = str(error).strip()
    message = f"^--ray_address x: cannot use Ray there: {reason}. Give local, auto or the address"
    with pytest.raises(MammothError, match=message):
        run_on_ray(SimpleNamespace(search=SimpleNamespace(method="grid")), "x")


@pytest.mark.slow
def test_killed_worker_continues(tmp_path, run_python):
    pytest.importorskip("ray")
    plugin = tmp_path / "plugin.py"
    plugin.write_text(
        """
import os, signal
from pathlib import Path
from mammoth_compiled.models.sgd import SGD
from mammoth_compiled import register_model

@register_model("dies-once")
class DiesOnce(SGD):
    def begin_task(self, dataset):
        marker = Path(os.environ["MARKER"])
        if dataset.c_task == 1 and self.args.seed == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    (tmp_path / "exp.yaml").write_text(
        "model: dies-once\ndataset: seq-fmnist-mini\nbackbone: mnistmlp\ndebug_mode: true\n"
        "compile: off\nlr: [0.03]\nseed: [0, 1]\nn_tasks: 2\n".replace("\\\n", "\n")
    )
    result = run_python(
        *("-m", "mammoth_compiled.sweep", "exp.yaml", "--ray_address", "local", "--workers", "2"),
        *("--import", plugin),
        MARKER=str(tmp_path / "marker"),
        PYTHONPATH=os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH")])),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "marker").exists()
    folder = tmp_path / "sweeps" / "exp"
    logs = {seed: (folder / f"lr=0.03-seed={seed}" / "log.txt").read_text() for seed in (0, 1)}
    assert "resumed" in logs[1]
    assert "resumed" not in logs[0]
    assert (folder / "report.html").is_file()
