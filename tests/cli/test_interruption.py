"""The command line in a process of its own that gets signals."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from forked_commands import ForkedCommand

RUN = (
    *("--model", "sgd", "--dataset", "seq-fmnist-mini", "--backbone", "mnistmlp"),
    *("--compile", "off", "--n_epochs", "8", "--seed", "0"),
)
# Seconds that a process may take for what it does within one.
PATIENCE_S = 600
SLOW_MODEL = '''
import time
from mammoth_compiled import register_model
from mammoth_compiled.models.sgd import SGD

@register_model("slow")
class Slow(SGD):
    """Takes minutes for the second task."""
    def after_step(self, batch):
        if self.current_task:
            time.sleep(1)
'''
HANGING_MODEL = '''
import time
from mammoth_compiled import register_model
from mammoth_compiled.models.sgd import SGD

@register_model("hanging")
class Hanging(SGD):
    """Never ends a step."""
    def observe(self, *args, **kwargs):
        print("step", flush=True)
        while True:
            time.sleep(1)
'''


@pytest.fixture
def start(tmp_path):
    """Returns a function that starts the command line and ends with it at the latest."""
    processes = []

    def start(*words, module="mammoth_compiled.run", **environment):
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} was not printed: {process.stderr.read()}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_keeps_partial_results(start, tmp_path, number):
    path = tmp_path / "results.json"
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    words = ("--import", "slow.py", "--model", "slow", *RUN[2:], "--results_path", path)
    process = start(*words, "--checkpoint_path", "saved", "--savecheck", "task")
    wait_for(process, "Accuracy after task 1")
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 128 + number
    assert err == f"{number.name}: stopping after the current step; a second signal ends at once\n"
    assert "Training interrupted" in out
    content = json.loads(path.read_text())
    assert content["interrupted"] is True
    assert len(content["class_il"]) == 1
    assert len(list((tmp_path / "saved").iterdir())) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(start, tmp_path, number):
    (tmp_path / "hanging.py").write_text(HANGING_MODEL)
    process = start("--import", "hanging.py", "--model", "hanging", *RUN[2:])
    wait_for(process, "step")
    process.send_signal(number)
    assert process.stderr.readline().startswith(f"{number.name}: stopping after the current step")
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -number
    assert err == ""


@pytest.mark.parametrize(
    ("command", "words", "imported"),
    [
        ("run", RUN, "tqdm"),
        ("export", ("export", "checkpoint.pt", "bundle"), "tqdm"),
        ("report", ("runs",), "numpy"),
        ("sweep", ("sweep.yaml",), "numpy"),
    ],
)
def test_interrupt_while_modules_are_imported(start, tmp_path, command, words, imported):
    slow = "import time; print('importing', flush=True); time.sleep(999)"
    (tmp_path / f"{imported}.py").write_text(slow)
    process = start(*words, module=f"mammoth_compiled.{command}", PYTHONPATH=str(tmp_path))
    wait_for(process, "importing")
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE_S)[1] == "interrupted\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("number", "err"), [(signal.SIGINT, "interrupted\n"), (signal.SIGTERM, "")]
)
def test_signal_before_training(start, tmp_path, number, err):
    (tmp_path / "slow.py").write_text(
        "import time; print('importing', flush=True); time.sleep(999)"
    )
    process = start("--import", "slow.py", *RUN)
    wait_for(process, "importing")
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE_S)[1] == err
    assert process.returncode == 128 + number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_during_an_export(start, tmp_path, number):
    slow = "import time; print('importing', flush=True); time.sleep(999)"
    (tmp_path / "slow.py").write_text(slow)
    words = ("export", "checkpoint.pt", "bundle", "--import", "slow.py")
    process = start(*words, module="mammoth_compiled.export")
    wait_for(process, "importing")
    process.send_signal(number)
    assert process.communicate(timeout=PATIENCE_S)[1] == ("interrupted\n" if number == 2 else "")
    assert process.returncode == 128 + number
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_ten_kills_and_automatic_resumes_give_equal_results(start, tmp_path):
    words = ("--model", "er", "--buffer_size", "50", *RUN[2:])
    whole, resumed = tmp_path / "whole.json", tmp_path / "resumed.json"
    process = start(*words, "--results_path", whole)
    assert process.communicate(timeout=PATIENCE_S)[1] == ""
    delays = random.Random(0)
    resume = (*words, "--resume", "--checkpoint_path", "saved")
    for kill in range(10):
        command = ForkedCommand("mammoth_compiled.run", resume, tmp_path)
        # However slow the machine is, the first kill comes after a checkpoint.
        command.wait_for("checkpoint: saved" if kill == 0 else "er on seq-fmnist-mini")
        time.sleep(delays.uniform(0, 2))
        command.kill()
    process = start(*resume, "--results_path", resumed)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert "loaded" in out
    one, other = (json.loads(path.read_text()) for path in (whole, resumed))
    for name in ("class_il", "task_il", "loss", "train_images"):
        assert one[name] == other[name]
    assert not [path for path in (tmp_path / "saved").iterdir() if path.name.startswith(".")]
