"""A sweep on Ray Tune: every run is a run folder, and a killed worker continues."""

import os

import pytest

pytest.importorskip("ray")


@pytest.mark.slow
def test_killed_worker_continues(tmp_path, run_python):
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
