"""The script for GPUs: what it does with sections that fail, and with what they measure.

The gate also runs it to the end in its dry mode (.ci/run).
"""

import importlib
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    """Returns a function that imports a module of `benchmarks`."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return importlib.import_module


@pytest.fixture
def run_apart(script, tmp_path):
    """Returns a function that runs a program as a section; it gets the file of rows."""

    def run(program, hard=600.0):
        part = tmp_path / "section.part"
        command = [sys.executable, "-S", "-c", program, part]
        return script("gpu_process").run_apart(command, part, tmp_path / "gpu.log", 0.1, hard)

    return run


HANGS = """
import pathlib, subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
pathlib.Path(sys.argv[1]).write_text(f'{{"child": {child.pid}}}\\n{{"cut": ')
time.sleep(600)
"""


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_killed_section_keeps_its_rows_and_leaves_no_process(run_apart, tmp_path, monkeypatch):
    wait = subprocess.Popen.wait

    def wait_for_rows(self, timeout=None):
        while timeout and '"cut"' not in (part.read_text() if part.exists() else ""):
            assert self.poll() is None
            time.sleep(0.01)
        return wait(self, timeout)

    part = tmp_path / "section.part"
    monkeypatch.setattr(subprocess.Popen, "wait", wait_for_rows)
    rows, failed = run_apart(HANGS, hard=0.6)
    assert failed == "killed after 1 s; it should have stopped after 0 s"
    (row,) = rows
    deadline = time.monotonic() + 600
    while is_running(row["child"]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(row["child"])


def test_failed_section_says_why(run_apart):
    rows, failed = run_apart("print('before'); raise SystemExit('no such kernel')")
    assert rows == []
    assert failed.startswith("exit code 1: ")
    assert failed.endswith("no such kernel")


def test_rows_are_valid_json(script, tmp_path):
    process, part = script("gpu_process"), tmp_path / "part"
    process.write_rows(part, [{"ms": [float("nan"), 1.0], 4: float("inf")}])
    assert process.read_rows(part) == [{"ms": [None, 1.0], "4": None}]
    assert not part.exists()


def test_sections_share_the_time_that_is_left(script):
    gpu = script("gpu")
    names = list(gpu.SECTIONS)
    shares = [gpu.seconds_for(name, names, 480)[0] for name in names]
    assert sum(shares) == pytest.approx(480)
    for position, name in enumerate(names):
        soft, hard = gpu.seconds_for(name, names[position:], 100)
        assert soft <= hard <= 100
    assert gpu.seconds_for(names[-1], names[-1:], 100) == (100, 100)


def test_every_section_has_a_function(script):
    for name, section in script("gpu").SECTIONS.items():
        module, _, function = section.function.partition(":")
        assert callable(getattr(script(module), function)), name


def test_rows_compare_every_method_backbone_and_batch_size(script):
    rows = {row[:3] for row in script("gpu_loop").ROWS}
    assert rows >= {
        (method, backbone, batch)
        for method in ("sgd", "er", "derpp")
        for backbone in ("cnn", "resnet18")
        for batch in (32, 128)
    }


def test_table_has_what_was_measured(script, capsys):
    spread = {"median": 0.002, "n": 3}
    kernel = {"first_us": 3.0, "best_us": 2.0, "candidates": 4}
    step = {"step_us": {"median": 32.0}, "speed_up": {"median": 50.0}, "kernels": 9, "reason": ""}
    step |= {"replay_us": 30.0, "peak_MiB": 12.0, "largest": [["weight_grad", 2, 8.0]]}
    rows = {
        "loops": {"model": "er", "backbone": "cnn", "batch": 32, "amp": "bf16", "default": step},
        "tune": {"problem": "rows=1", "kernels": {"draw.rows": kernel}},
        "ops": {"op": "attention", "problem": "heads=3", "ms": {"torch": spread}},
        "data": {"op": "replay", "batch": 32, "ms": {"fused": spread}},
        "export": {"backbone": "cnn", "latency_us": {"1": 9}, "largest_difference": {"1": 0.0}},
        "checks": {"group": "kernels", "passed": True, "log": "long"},
    }
    sections = {k: {"rows": [row], "seconds": 1.0, "failed": ""} for k, row in rows.items()}
    script("gpu_table").print_table(sections)
    assert capsys.readouterr().out.splitlines() == [
        "er cnn 32 bf16 default: 32 us, replay 30 us, 9 kernels, 50.0x plain, 12.0 MiB ",
        "         8.0 us    2  weight_grad",
        "draw.rows, rows=1: 3.0 us, tuned 2.0 us, 4 candidates",
        "attention, heads=3, us: torch 2.0",
        "replay, batch=32, us: fused 2.0",
        "cnn {'1': 9} {'1': 0.0}",
        "checks {'group': 'kernels', 'passed': True}",
        *(f"{name}: 1 rows in 1 s" for name in rows),
    ]


PYTEST_LOG = """
[gw0] [ 25%] PASSED tests/kernels/test_draw.py::test_one[a-1]
[gw1] [ 50%] FAILED tests/kernels/test_draw.py::test_two
tests/kernels/test_draw.py::test_three SKIPPED (no)
[gw0] [ 75%] ERROR tests/data/test_loader.py::test_four
=========================== short test summary info ============================
FAILED tests/kernels/test_draw.py::test_two - AssertionError
"""


@pytest.mark.parametrize(("seconds", "left_out"), [(100, {"contract"}), (4000, set())])
def test_groups_of_tests_that_would_be_cut_off_are_left_out(
    script, monkeypatch, tmp_path, seconds, left_out
):
    checks, timing = script("gpu_checks"), script("gpu_timing")
    monkeypatch.setattr(checks, "_run", lambda *_: {"passed": True})
    rows = list(checks.run_checks(timing.Context(tmp_path, time.monotonic() + seconds)))
    groups = ["gpu", "kernels", "compiled", "unit", "contract"]
    assert [row["group"] for row in rows] == groups
    assert {row["group"] for row in rows if "left_out" in row} == left_out


def test_tests_are_counted_also_if_they_were_stopped(script):
    row = script("gpu_checks").summary(PYTEST_LOG, None)
    assert (row["num_passed"], row["num_failed"], row["num_error"]) == (1, 1, 1)
    assert row["num_skipped"] == 1
    assert row["names"] == [
        "tests/kernels/test_draw.py::test_two",
        "tests/data/test_loader.py::test_four",
    ]
    assert (row["passed"], row["stopped"]) == (False, "out of time")
    assert script("gpu_checks").summary("", 0)["passed"]


def test_failures_of_all_kinds_are_found(script):
    failures = script("gpu_table").failures_of
    section = {"rows": [{"failed": "no"}, {"passed": False, "names": ["t"]}, {}], "failed": "late"}
    assert failures(section) == ["late", "no", "tests: ['t']"]
    assert failures({"rows": [{"passed": True}], "failed": ""}) == []


class FakeCase:
    """Runs a forward kernel and a backward kernel; their times are those of their tiles."""

    op = "fake"

    def __init__(self, used):
        self.used = used

    def __str__(self):
        return "float32 rows=1"

    def work(self):
        return SimpleNamespace(num_flops=1)

    def make_steps(self, device):
        return {"torch": lambda: None, "triton": self.step}

    def step(self):
        import torch

        from mammoth_compiled.kernels.runtime.tiles import select_tile

        cpu = torch.device("cpu")
        for kernel in ("relu_pool.forward", "relu_pool.backward"):
            sizes = {"channels": 32, "window": 4}
            self.used[kernel] = select_tile(kernel, torch.float32, sizes, cpu)


def test_tuning_finds_the_fastest_tile_of_each_kernel(script, monkeypatch, tmp_path):
    tuning, used = script("tuning"), {}
    tables = []

    def time_replays(functions, count=5):
        functions[0]()
        return [float(sum(tile["BLOCK_CELLS"] for tile in used.values()))]

    monkeypatch.setattr(tuning, "time_replays", time_replays)
    monkeypatch.setattr(tuning, "tuning_cases", lambda: [FakeCase(used)])
    monkeypatch.setattr(tuning, "write_table", lambda table, out: tables.append(dict(table)))
    (row,) = tuning.tune(SimpleNamespace(out=tmp_path, is_over=lambda: False))
    assert "failed" not in row
    # The first candidates have 32 and 64 cells, the smallest 8 and 16.
    (forward,) = tables[-1]["relu_pool.forward"].values()
    (backward,) = tables[-1]["relu_pool.backward"].values()
    assert "BLOCK_CELLS=8 " in forward
    assert "BLOCK_CELLS=16 " in backward
    assert row["kernels"] == {
        "relu_pool.forward": {"first_us": 96e3, "best_us": 72e3, "candidates": 3},
        "relu_pool.backward": {"first_us": 72e3, "best_us": 24e3, "candidates": 3},
    }
