"""A sample of the hostile inputs; `benchmarks/hostile.py` runs them all, and the kills."""

import os
import random

import pytest
from hostile_inputs import (
    binaries,
    command_lines,
    images,
    kills,
    processes,
    result_files,
    sweep_kills,
    texts,
)
from hostile_inputs.harness import judge, prepare

SAMPLES = {
    "other commands": (lambda files: command_lines.other_commands(), 40),
    "environment": (lambda files: command_lines.environment(), 12),
    "configuration files": (lambda files: texts.configurations(), 8),
    "sweep files": (lambda files: texts.sweeps(), 12),
    "results files": (lambda files: result_files.results(), 20),
    "programs": (lambda files: texts.programs(), 6),
    "checkpoints": (binaries.checkpoints, 100),
    "images": (lambda files: images.images(), 14),
    "caches": (lambda files: images.caches(), 5),
    "outputs": (processes.outputs, 12),
    "full disks": (lambda files: processes.full_disks(), 13),
    "signals": (processes.signals, 18),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, a bundle and results of a run."""
    directory = tmp_path_factory.mktemp("files")
    prepare(lambda: binaries.make_files(directory))
    return directory


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.delenv("MAMMOTH_RUNS")
    monkeypatch.delenv("MAMMOTH_BASE_PATH")


@pytest.mark.parametrize("kind", SAMPLES)
def test_hostile_inputs_have_no_fault(files, kind):
    inputs, every = SAMPLES[kind]
    verdicts = list(judge(list(inputs(files))[::every]))
    assert verdicts
    wrong = [f"{v.outcome}: {v.what}: {v.detail}" for v in verdicts if v.is_bad]
    assert not wrong, "\n".join(wrong)


def test_a_run_killed_during_an_update_resumes_to_equal_results(tmp_path, monkeypatch):
    def run(name, count):
        directory = tmp_path / name / "cwd"
        directory.mkdir(parents=True)
        monkeypatch.chdir(directory)
        return kills.killed_run("during update", 0.05, expected, count)

    expected = {}
    assert run("whole", count=0) == ""
    expected = kills.outcome_of_run()
    assert run("killed", count=1) == ""
    assert os.path.exists("bundle/manifest.json")


def test_runs_over_seeds_that_were_killed_continue_to_equal_results(tmp_path, monkeypatch):
    outcomes = []
    for count in (0, 1):
        directory = tmp_path / str(count) / "cwd"
        directory.mkdir(parents=True)
        monkeypatch.chdir(directory)
        draw = random.Random(3)
        assert sweep_kills.killed_sweep("seeds", "sweep", draw, {}, count) == ""
        outcomes.append(sweep_kills.outcome_of_sweep())
    assert len(outcomes[0]) == 5
    assert outcomes[0] == outcomes[1]
