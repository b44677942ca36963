"""Data-parallel training with Gloo: two processes compute what one computes."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "train_methods.py"
EQUAL = ("sgd", "momentum", "er", "balanced", "derpp", "agem", "compiled", "synchronized")
REFUSED = {
    "drifts": "Drifts computes different weights on each rank: average what its step computes",
    "own observe": "torchrun: OwnObserve defines its own observe",
    "odd batch": "torchrun: --batch_size 15 counts the images of all 2 ranks: give a multiple of 2",
    "odd replay": "torchrun: --minibatch_size 7 counts the images of all 2 ranks",
    "odd minutes": "torchrun: with --fitting_mode time the ranks would stop at different steps",
}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def run(words, cwd):
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, timeout=1200, check=False)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Returns what one process and each of two ranks computed, by name."""
    folder = tmp_path_factory.mktemp("ranks")
    names = (*EQUAL, "batch norm", *REFUSED, "two tasks")
    together = run([*TORCHRUN, str(PROGRAM), "two", *names], folder)
    assert together.returncode == 0, together.stderr
    shutil.copytree(folder / "two.checkpoints", folder / "one.checkpoints")
    alone = run([sys.executable, str(PROGRAM), "one", *EQUAL, "resumed", "two tasks"], folder)
    assert alone.returncode == 0, alone.stderr
    files = {"one": "one.0", "first": "two.0", "second": "two.1"}
    return {name: torch.load(folder / file) for name, file in files.items()}


def close(one, other):
    return all(torch.allclose(one[k].double(), other[k].double(), atol=1e-5) for k in one)


@pytest.mark.parametrize("name", EQUAL)
def test_two_ranks_compute_what_one_process_computes(outcomes, name):
    one, first, second = (outcomes[which][name] for which in ("one", "first", "second"))
    assert close(one["net"], first["net"])
    assert all(torch.equal(first["net"][key], second["net"][key]) for key in first["net"])
    assert list(one["buffer"]) == list(first["buffer"])
    assert close(one["buffer"], first["buffer"])
    for key in ("examples", "labels"):
        if key in one["buffer"]:
            assert torch.equal(one["buffer"][key], first["buffer"][key])
    assert first["images"] == one["images"]
    assert first["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert first["confusion"] == second["confusion"]
    for row, expected in zip(first["class_il"], one["class_il"], strict=True):
        assert row == pytest.approx(expected, abs=0.05)


def test_every_test_image_is_counted_once(outcomes):
    assert sum(map(sum, outcomes["first"]["sgd"]["confusion"])) == 126


def test_batch_norm_uses_the_images_of_its_rank(outcomes):
    first, second = (outcomes[which]["batch norm"]["net"] for which in ("first", "second"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["body.1.running_mean"], torch.zeros(8))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(outcomes, name):
    for which in ("first", "second"):
        assert REFUSED[name] in outcomes[which][name]["error"]


def test_a_run_of_two_ranks_is_resumed_by_one(outcomes):
    assert len(outcomes["first"]["two tasks"]["class_il"]) == 2
    whole, resumed = outcomes["one"]["two tasks"], outcomes["one"]["resumed"]
    assert len(resumed["class_il"]) == 3
    assert resumed["class_il"][:2] == outcomes["first"]["two tasks"]["class_il"]
    assert close(outcomes["first"]["two tasks"]["net"], whole["net"])
    expected = outcomes["first"]["derpp"]
    assert close(resumed["net"], expected["net"])
    assert close(resumed["buffer"], expected["buffer"])


RUN = ("-m", "mammoth_compiled.run", "--model", "er", "--dataset", "seq-fmnist-mini")
RUN += ("--backbone", "mnistmlp", "--buffer_size", "40", "--compile", "off", "--out", "run")


PLUGIN = '''
import os, time
from pathlib import Path
from mammoth_compiled import register_model
from mammoth_compiled.models.er import ER

@register_model("endless")
class Endless(ER):
    """Tells when a rank trains, and takes its time."""
    def training_loss(self, batch):
        Path(f"rank{os.environ['RANK']}").touch()
        time.sleep(0.05)
        return super().training_loss(batch)
'''


def test_the_command_line(tmp_path):
    (tmp_path / "endless.py").write_text(PLUGIN)
    words = [*TORCHRUN, *RUN, "--n_epochs", "400", "--savecheck", "task"]
    words[words.index("er")] = "endless"
    words += ["--import", "endless.py"]
    process = subprocess.Popen(
        words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("compile: off"):
            break
    while not all((tmp_path / f"rank{rank}").exists() for rank in (0, 1)):
        assert process.poll() is None, "".join(lines)
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=600)
    output = "".join(lines) + rest
    assert "mammoth_compiled/" not in rest, output  # the traceback is torchrun's own
    assert output.count("endless on seq-fmnist-mini with mnistmlp") == 1
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["interrupted"] is True
    assert "SIGTERM" in rest


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--seeds", "0-1"), "torchrun: give one seed and one configuration"),
        (("--batch_size", "33"), "torchrun: --batch_size 33 counts the images of all 2 ranks"),
    ],
)
def test_a_mistake_is_reported_once(tmp_path, words, message):
    result = run([*TORCHRUN, *RUN, *words], tmp_path)
    assert result.returncode != 0
    assert result.stderr.count(message) == 1
    assert not (tmp_path / "run").exists()
