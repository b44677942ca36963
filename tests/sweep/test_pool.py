"""Several runs side by side: equal to each run alone, robust against a killed or failing one."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentTypeError, Namespace

import pytest

from mammoth_compiled.config.values import seed_list
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.sweep.layout import available_cores
from mammoth_compiled.sweep.runs import run_side_by_side

PLUGIN = '''
import functools, os, signal, time
import numpy as np
import torch
from torch import nn
from torchvision import transforms
from mammoth_compiled import (
    ContinualDataset, ContinualModel, MammothBackbone, register_backbone, register_dataset,
    register_model,
)
from mammoth_compiled.datasets.arrays import ArrayDataset

@functools.cache
def read():
    with open("reads.txt", "a") as file:
        file.write("read\\n")
    return np.random.default_rng(0).integers(0, 256, (240, 8, 8, 3), np.uint8)

@register_dataset("seq-noise")
class Noise(ContinualDataset):
    """Noise."""
    SHARES_IMAGES = True
    SETTING, N_CLASSES_PER_TASK, N_TASKS, SIZE = "class-il", 2, 3, (8, 8)
    TRANSFORM = TEST_TRANSFORM = transforms.ToTensor()
    MEAN, STD = (0.0,) * 3, (1.0,) * 3

    def get_data_loaders(self):
        split = ArrayDataset(read(), np.arange(240) % 6, transforms.ToTensor())
        return split, split

    @staticmethod
    def get_backbone():
        return "flat-net"

@register_backbone("flat-net")
class FlatNet(MammothBackbone):
    """One layer."""
    def __init__(self, num_classes):
        super().__init__()
        self.classifier = nn.Linear(192, num_classes)

    def forward(self, x, returnt="out"):
        features = x.flatten(1)
        logits = self.classifier(features)
        return {"out": logits, "features": features, "both": (logits, features)}[returnt]

@register_model("fragile")
class Fragile(ContinualModel):
    """SGD that breaks in task 2, or takes minutes for it, where the test asks for it."""
    def training_loss(self, batch):
        if self.current_task and os.environ.get("SLOW"):
            time.sleep(0.2)
        return self.loss(self.net(batch.inputs), batch.labels)

    def begin_task(self, dataset):
        if dataset.c_task == 1 and os.environ.get("BROKEN"):
            if self.args.seed == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.args.seed == 2:
                raise RuntimeError("a bug in user code")
            if self.args.seed == 3:
                with torch.no_grad():
                    self.net.classifier.weight.fill_(float("inf"))
'''
RUN = ["--model", "fragile", "--dataset", "seq-noise", "--compile", "off", "--lr", "0.1"]
RUN += ["--n_epochs", "2"]
# With SLOW=1 the second task takes three minutes: longer than a signal may take to arrive.
LONG_RUN = [*RUN[:-1], "300"]
# Seconds that a process may take for what it does within one.
PATIENCE_S = 600


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture
def command(plugin, tmp_path):
    """Returns a function that runs a module in a process of its own."""

    def run(module, *words, **environment):
        return subprocess.run(
            [sys.executable, "-m", f"mammoth_compiled.{module}", *words, "--import", plugin],
            cwd=tmp_path,
            env={**os.environ, "MAMMOTH_RUNS": "runs", **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )

    return run


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_every_seed_equals_its_run_alone(command, tmp_path):
    together = command("run", *RUN, "--seeds", "0-2", "--out", "all", "--savecheck", "last")
    assert together.returncode == 0, together.stdout + together.stderr
    assert (tmp_path / "reads.txt").read_text() == "read\n"  # images are loaded once for all
    assert together.stderr == ""
    assert (tmp_path / "all" / "report.html").is_file()
    assert " 3  " in together.stdout.splitlines()[-2]  # three runs on the leaderboard
    layout = results(tmp_path / "all" / "seed=2")["notes"]["side_by_side"]
    if len(os.sched_getaffinity(0)) > 1:
        assert layout["reason"].startswith("measured")
    environment = {"OMP_NUM_THREADS": str(layout["threads"])}
    alone = command(
        "run", *RUN, "--seed", "2", "--out", "alone", "--savecheck", "last", **environment
    )
    assert alone.returncode == 0, alone.stderr
    from mammoth_compiled.checkpoint import read_checkpoint

    checkpoints = []
    for folder in (tmp_path / "all" / "seed=2", tmp_path / "alone"):
        (path,) = (folder / "checkpoints").glob("*.pt")
        checkpoints.append(read_checkpoint(path))
    first, second = (content["net"] for content in checkpoints)
    assert all((first[name] == second[name]).all() for name in first)
    one, other = results(tmp_path / "all" / "seed=2"), results(tmp_path / "alone")
    for name in ("class_il", "task_il", "loss", "confusion"):
        assert one[name] == other[name], name
    assert one["class_il"] != results(tmp_path / "all" / "seed=1")["class_il"]


def test_broken_runs_end_alone_and_continue_later(command, tmp_path):
    (tmp_path / "exp.yaml").write_text("seed: [0, 1, 2, 3]\n")
    words = ("exp.yaml", *RUN, "--workers", "2")
    broken = command("sweep", *words, BROKEN="1")
    assert broken.returncode == 2, broken.stdout + broken.stderr
    for message in (
        "seed=1: failed: its process was killed by signal 9",
        "seed=2: failed: RuntimeError: a bug in user code (details in sweeps/exp/seed=2.stderr)",
        "seed=3: failed: the loss became nan in task 2",
    ):
        assert message in broken.stdout
    folder = tmp_path / "sweeps" / "exp"
    assert "plugin.py" in (folder / "seed=2.stderr").read_text()
    assert results(folder / "seed=0")["interrupted"] is False
    before = (folder / "seed=0" / "results.json").stat().st_mtime_ns
    repaired = command("sweep", *words)
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert (folder / "seed=0" / "results.json").stat().st_mtime_ns == before
    assert "finished (4 of 4)" in repaired.stdout
    assert all("resumed" in (folder / f"seed={n}" / "log.txt").read_text() for n in (1, 2, 3))
    assert not list(folder.glob("*/checkpoints"))


def test_runs_that_take_turns_equal_their_runs_alone_and_end_alone(command, tmp_path):
    words = ["--seeds", "0,2-4", "--together", "4", "--out", "all"]
    together = command("run", *RUN, *words, BROKEN="1")
    assert together.returncode == 2, together.stdout + together.stderr
    for message in (
        "4 runs in all, 4 at a time in one process",
        "seed=2: failed: RuntimeError: a bug in user code (details in all/seed=0.stderr)",
        "seed=3: failed: the loss became nan in task 2",
        "finished (2 of 4)",
    ):
        assert message in together.stdout
    # Results have the same bits only with the same number of threads, which is that of the cores.
    threads = str(available_cores())
    alone = command("run", *RUN, "--seed", "4", "--out", "alone", OMP_NUM_THREADS=threads)
    assert alone.returncode == 0, alone.stderr
    one, other = results(tmp_path / "all" / "seed=4"), results(tmp_path / "alone")
    for name in ("class_il", "task_il", "loss", "confusion"):
        assert one[name] == other[name], name
    logs = {n: (tmp_path / "all" / f"seed={n}" / "log.txt").read_text() for n in (0, 3, 4)}
    assert "nan" in logs[3]
    assert "nan" not in logs[0] + logs[4]
    for log in logs.values():
        assert log.count("Accuracy after task 1") == 1  # of its own run only


@pytest.mark.parametrize("layout", ["--workers", "--together"])
def test_ctrl_c_stops_all_runs_after_their_step(plugin, tmp_path, layout):
    words = [*LONG_RUN, "--seeds", "0-3", "--out", "all", layout, "2", "--savecheck", "task"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mammoth_compiled.run", *words, "--import", plugin],
        cwd=tmp_path,
        env={**os.environ, "SLOW": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    for line in process.stdout:
        if "seed=0: after task 1" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, out
    assert results(tmp_path / "all" / "seed=0")["interrupted"] is True
    assert not (tmp_path / "all" / "seed=3").exists()
    assert "Traceback" not in out


def test_runs_stop_after_their_task_if_the_sweep_is_killed(plugin, tmp_path):
    words = [*LONG_RUN, "--seeds", "0-1", "--out", "all", "--workers", "2", "--import", plugin]
    process = subprocess.Popen(
        [sys.executable, "-m", "mammoth_compiled.run", *words],
        cwd=tmp_path,
        env={**os.environ, "SLOW": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    seeds = {"seed=0", "seed=1"}
    started = set()  # a run that is killed before its first task leaves no results
    for line in process.stdout:
        started |= {seed for seed in seeds if f"{seed}: after task 1" in line}
        if started == seeds:
            break
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    paths = [tmp_path / "all" / seed / "results.json" for seed in seeds]
    end = time.monotonic() + PATIENCE_S
    while not all(path.exists() for path in paths) and time.monotonic() < end:
        time.sleep(0.1)
    assert all(results(path.parent)["interrupted"] for path in paths)


def test_several_runs_need_a_folder(tiny):
    runs = [Namespace(out="off", seed=seed) for seed in (0, 1)]
    with pytest.raises(ConfigError, match=r"several runs need a folder .*: give --out DIR"):
        run_side_by_side(runs)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-3", [0, 1, 2, 3]), ("7", [7]), ("0,5-6", [0, 5, 6])]
)
def test_seeds(text, seeds):
    assert seed_list(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3-1", "is not a range"),
        ("0-99999999", "is not a range"),
        ("1,1", "names a seed twice"),
        ("a", "must be an integer"),
        ("", "must not be empty"),
        ("-1", "must be an integer"),
    ],
)
def test_invalid_seeds(text, message):
    with pytest.raises(ArgumentTypeError, match=message):
        seed_list(text)
