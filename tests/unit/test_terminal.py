"""What a terminal shows: progress, lines above it, the colored table; and what a file gets."""

import io
import itertools
import re
import sys

import pytest

from mammoth_compiled import console
from mammoth_compiled.engine import Observer
from mammoth_compiled.observers.console import FinalTable, accuracy_table
from mammoth_compiled.observers.progress import ProgressBar, ProgressLines
from mammoth_compiled.results import Results
from mammoth_compiled.types import Evaluation


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def use_terminal(monkeypatch):
    """Returns a function that lets standard output and error be terminals, and returns them."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("mammoth_compiled.observers.progress.BAR_INTERVAL", 0)

    def use():
        # Not in the fixture: pytest replaces them before the test.
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stdout, sys.stderr

    return use


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_run_on_a_terminal(run_tiny, use_terminal, tmp_path):
    terminal, _ = use_terminal()
    run_tiny(out=str(tmp_path / "run"), observers=[FinalTable()], n_epochs=2)
    assert sys.stdout is terminal
    shown = plain(terminal.getvalue())
    for text in ("Task 1/3, epoch 1/2", "Task 3/3, epoch 2/2", "Class-IL=", "ETA=0:00:0"):
        assert text in shown
    assert shown.count("Accuracy after task 2: ") == 1
    assert "\x1b[" in terminal.getvalue()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "\x1b" not in log
    assert "Task 1/3" not in log
    assert "forgetting (Class-IL): " in log


def test_lines_of_user_code_go_above_the_bar(run_tiny, use_terminal):
    terminal, _ = use_terminal()

    class Prints(Observer):
        def begin_epoch(self, run):
            print("mine")

    run_tiny(observers=[Prints()])
    lines = [plain(line).strip() for line in terminal.getvalue().replace("\r", "\n").split("\n")]
    assert lines.count("mine") == 3


def test_a_bar_beside_output_that_goes_to_a_file(run_tiny, use_terminal, monkeypatch):
    _, errors = use_terminal()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    run_tiny()
    assert "\x1b" not in sys.stdout.getvalue()
    assert "Accuracy after task 3" in sys.stdout.getvalue()
    assert "Task 3/3" in errors.getvalue()


def test_quiet_shows_no_bar(run_tiny, use_terminal):
    terminal, errors = use_terminal()
    run_tiny(quiet=True)
    assert terminal.getvalue() == errors.getvalue() == ""


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_the_bar_fits_into_a_line(run_tiny, monkeypatch, columns):
    monkeypatch.setattr("mammoth_compiled.observers.progress.BAR_INTERVAL", 0)
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = io.StringIO()
    run_tiny(observers=[ProgressBar(file=shown)])
    lines = [plain(line) for line in re.split("[\r\n]", shown.getvalue()) if "Task" in line]
    assert lines
    assert all(line.startswith("Task ") and "epoch 1/1" in line for line in lines)
    assert max(map(len, lines)) <= columns
    assert ("images/s=" in shown.getvalue()) == (columns >= 80)


def test_a_task_of_unknown_length(run_tiny, monkeypatch):
    monkeypatch.setattr("mammoth_compiled.observers.progress.BAR_INTERVAL", 0)
    monkeypatch.setenv("COLUMNS", "160")
    shown = io.StringIO()
    args = {"fitting_mode": "time", "n_minutes": 0.001}
    run_tiny(observers=[ProgressBar(file=shown)], **args)
    assert "Task 3/3, epoch 1 " in plain(shown.getvalue())
    assert "ETA" not in shown.getvalue()


def test_lines_where_nobody_watches(run_tiny, capsys, monkeypatch):
    clock = itertools.count(step=0.01).__next__
    monkeypatch.setattr("mammoth_compiled.observers.progress.time.perf_counter", clock)
    run_tiny(observers=[ProgressLines(interval=0)])
    out, err = capsys.readouterr()
    assert err == ""
    pattern = r"task 2/3, epoch 1: loss [\d.]+, Class-IL [\d.]+%, ETA 0:00:0\d, images/s [\d,]+, lr"
    assert len(re.findall(pattern, out)) == 5
    run_tiny()
    assert "images/s" not in capsys.readouterr().out  # one a minute


def results(num_tasks):
    found = Results()
    for task in range(num_tasks):
        row = [0.9] * task + [1.0]
        found.add(Evaluation(row, row, 0.5), train_s=1, eval_s=1, images=10)
    return found


@pytest.mark.parametrize(
    ("num_tasks", "width", "columns"),
    [(2, 80, 2), (8, 80, 8), (13, 80, 13), (20, 80, 13), (20, 120, 20), (100, 60, 8)],
)
def test_the_table_fits_into_the_terminal(num_tasks, width, columns):
    lines = plain(accuracy_table(results(num_tasks), width)).splitlines()
    assert max(map(len, lines)) <= width
    (last,) = [line.split() for line in lines if line.split()[:2] == ["task", str(num_tasks)]]
    assert [float(cell) for cell in last[2:-2]] == [90] * (columns - 1) + [100]
    assert float(last[-1]) == pytest.approx(90 + 10 / num_tasks, abs=0.0051)
    assert (f" on tasks {num_tasks - columns + 1} to" in lines[0]) == (columns < num_tasks)


def test_a_message_of_a_library_is_dropped(run_python):
    program = """
import logging, sys
logger = logging.getLogger("torch.utils.cpp_extension")
if sys.argv[1:]:
    sys.orig_argv = ["python", "-m", "mammoth_compiled.run"]
import mammoth_compiled.startup
logger.warning("No CUDA runtime is found")
"""
    assert run_python("-c", program, "run").stderr == ""
    assert "No CUDA runtime" in run_python("-c", program).stderr


# --- Lines -----------------------------------------------------------------------------------


def test_quiet_prints_what_is_always_printed(capsys):
    lines = []
    with console.quiet(), console.copied_to(lines.append):
        console.say("one")
        with console.quiet(False):
            console.say("two")
        console.say("three", always=True)
    console.say("four")
    assert capsys.readouterr().out == "three\nfour\n"
    assert lines == ["one", "two", "three"]


def test_a_terminal_gets_its_own_text(capsys):
    lines = []
    with console.copied_to(lines.append):
        console.say("plain", shown="colored")
    assert capsys.readouterr().out == "colored\n"
    assert lines == ["plain"]
