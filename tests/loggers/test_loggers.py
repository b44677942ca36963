"""Loggers: what is logged, the files of each, resumed runs, failures, and no change of a run."""

import csv
import itertools
import json
import math
import struct
import time

import pytest
import torch

from mammoth_compiled import loggers
from mammoth_compiled.engine import Observer
from mammoth_compiled.errors import ConfigError, MammothError
from mammoth_compiled.loggers import LoggedRun, Logger, Point, logger_classes
from mammoth_compiled.loggers.csv import COLUMNS, CsvLogger
from mammoth_compiled.loggers.jsonl import JsonlLogger
from mammoth_compiled.observers.log import Log


class Memory(Logger):
    """Keeps everything."""

    def __init__(self):
        self.points, self.ended, self.closed = [], None, 0

    def begin(self, run):
        self.run = run

    def log(self, point):
        self.points.append(point)

    def end(self, summary, tables):
        self.ended = summary, tables

    def close(self):
        self.closed += 1


class Losses(Observer):
    def __init__(self):
        self.losses = []

    def read_losses(self, run, losses):
        self.losses += losses


@pytest.fixture
def logged(run_tiny, tmp_path):
    """Returns a function that trains with a logger in memory: (logger, losses, results)."""

    def run(every=None, **args):
        memory, losses = Memory(), Losses()
        observers = [Log([memory], tmp_path, "mine", every), losses]
        args = {"batch_size": 16, "n_epochs": 2, "lr": 0.05, **args}
        *_, results = run_tiny(observers=observers, **args)
        return memory, losses.losses, results

    return run


def test_points_of_a_run(logged, tmp_path):
    memory, losses, results = logged(every=4, lr_scheduler="multistep", lr_milestones=[1])
    assert (memory.run.name, memory.run.directory) == ("mine", tmp_path)
    assert memory.run.config["lr"] == 0.05
    assert memory.run.resumed_at is None
    training = [point for point in memory.points if "train/loss" in point.values]
    # Six steps per task: a point after four, and one for the rest.
    assert [p.step for p in training] == [4, 6, 10, 12, 16, 18]
    assert [(p.task, p.epoch) for p in training] == [(t, 2) for t in (1, 2, 3) for _ in range(2)]
    windows = [losses[0:4], losses[4:6], losses[6:10], losses[10:12], losses[12:16], losses[16:18]]
    for point, window in zip(training, windows, strict=True):
        assert point.values["train/loss"] == pytest.approx(sum(window) / len(window), rel=1e-12)
        assert point.values["train/lr"] == pytest.approx(0.005)
        assert point.values["train/images_per_s"] > 0
        assert point.values["memory/peak_mib"] > 10
    tasks = [point for point in memory.points if "test/class_il" in point.values]
    assert [point.step for point in tasks] == [6, 12, 18]
    for task, point in enumerate(tasks):
        row = [point.values[f"class_il/task{j + 1}"] for j in range(task + 1)]
        assert row == results.class_il[task]
        assert point.values["test/loss"] == results.loss[task]
        assert point.values["compile/graphs"] == 0
    summary = results.summary()
    assert tasks[-1].values["test/forgetting_class_il"] == summary["forgetting_class_il"]
    assert tasks[-1].values["time/train_s"] == summary["train_s"]
    figures, tables = memory.ended
    assert figures["class_il"] == summary["class_il"]
    assert tables["task_il"] == results.task_il
    assert memory.closed == 1
    assert all(math.isfinite(v) for p in memory.points for v in p.values.values())


def test_by_default_a_point_a_second(logged, monkeypatch):
    clock = itertools.count(step=1e-3).__next__
    monkeypatch.setattr("mammoth_compiled.observers.log.time.perf_counter", clock)
    memory, losses, _ = logged()
    assert sum("train/loss" in point.values for point in memory.points) == 3
    monkeypatch.setattr("mammoth_compiled.observers.log.INTERVAL", 0)
    monkeypatch.setattr("mammoth_compiled.observers.log.MAX_SHARE", 1e9)
    memory, losses, _ = logged()
    assert sum("train/loss" in point.values for point in memory.points) == len(losses)


def test_slow_loggers_are_called_less_often(logged, monkeypatch):
    now = iter(range(10**6)).__next__  # every look at the clock takes a second
    monkeypatch.setattr("mammoth_compiled.observers.log.time.perf_counter", now)
    monkeypatch.setattr("mammoth_compiled.observers.log.MAX_SHARE", 1e-3)
    memory, losses, _ = logged()
    assert sum("train/loss" in point.values for point in memory.points) == 1 + 3
    assert len(losses) == 18


def test_loggers_change_no_numbers(run_tiny, tmp_path):
    *_, plain = run_tiny()
    *_, watched = run_tiny(log="csv,jsonl,tensorboard", log_dir=str(tmp_path))
    assert watched.loss == plain.loss
    assert watched.class_il == plain.class_il


def test_loggers_read_no_tensor(run_tiny, tmp_path, monkeypatch):
    def count(name):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda *a, **k: (calls.append(name), real(*a, **k))[1]
        )

    calls = []
    for name in ("item", "tolist", "numpy", "cpu", "__float__", "__bool__", "__int__"):
        count(name)
    run_tiny()
    plain, calls[:] = list(calls), []
    run_tiny(log="csv,jsonl,tensorboard", log_dir=str(tmp_path), log_every=1)
    assert plain
    assert calls == plain


def test_a_logger_that_fails_does_not_end_the_run(run_tiny, tmp_path, capsys):
    class Full(Memory):
        NAME = "full"

        def log(self, point):
            raise OSError("no space left")

    full, memory = Full(), Memory()
    _, _, results = run_tiny(observers=[Log([full, memory], tmp_path)])
    assert len(results.class_il) == 3
    assert capsys.readouterr().out.count("log: full stopped: no space left\n") == 1
    assert (full.closed, full.ended) == (1, None)
    assert memory.ended is not None


# --- Files -----------------------------------------------------------------------------------

POINTS = [
    Point(10, 1, 1, 1e9 + 0.25, {"train/loss": 0.1, "train/lr": 0.05}),
    Point(20, 2, 1, 1e9 + 1.5, {"test/class_il": 1 / 3}),
]


def write(logger, directory, points, resumed_at=None):
    logger.begin(LoggedRun("run", directory, {"lr": 0.05}, resumed_at))
    for point in points:
        logger.log(point)
    logger.end({}, {})
    logger.close()


def test_csv(tmp_path):
    write(CsvLogger(), tmp_path / "new", POINTS)
    with (tmp_path / "new" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["name"] for row in rows] == ["train/loss", "train/lr", "test/class_il"]
    assert float(rows[2]["value"]) == 1 / 3
    assert rows[0]["time"] == "1000000000.250"
    assert [row["step"] for row in rows] == ["10", "10", "20"]


def test_jsonl(tmp_path):
    write(JsonlLogger(), tmp_path, POINTS)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {
        "time": 1e9 + 0.25,
        "step": 10,
        "task": 1,
        "epoch": 1,
        "train/loss": 0.1,
        "train/lr": 0.05,
    }
    assert lines[1]["test/class_il"] == 1 / 3


@pytest.mark.parametrize("cls", [CsvLogger, JsonlLogger])
def test_a_resumed_run_replaces_what_it_repeats(tmp_path, cls):
    write(cls(), tmp_path, POINTS)
    path = tmp_path / cls.FILE
    whole = path.read_text()
    with path.open("a") as file:
        file.write(whole.splitlines()[-1][:9])  # killed while writing
    write(cls(), tmp_path, POINTS[1:], resumed_at=10)
    assert path.read_text() == whole
    write(cls(), tmp_path, POINTS)
    assert path.read_text() == whole


# What every run logs, by the first part of the name and for some the rest.
LOGGED = {
    *("train/loss", "train/lr", "train/images_per_s"),
    *("class_il/task1", "class_il/task3", "task_il/task3", "test/loss"),
    *("test/class_il", "test/average_incremental_class_il", "test/forgetting_class_il"),
    *("time/train_s", "time/eval_s", "time/images_per_s", "memory/peak_mib"),
    *("compile/graphs", "compile/graph_breaks", "compile/seconds"),
}


def logged_points(folder):
    """Returns the points of a run as JSONL has them: [(step, {name: value})]."""
    points = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values["step"]
        points.append((step, {name: value for name, value in values.items() if "/" in name}))
    return points


def assert_same_as_csv(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [(int(r["step"]), r["name"], float(r["value"])) for r in csv.DictReader(file)]
    assert rows == [
        (step, name, value)
        for step, values in logged_points(folder)
        for name, value in values.items()
    ]


def test_tensorboard_has_all_that_was_logged(run_tiny, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    *_, results = run_tiny(log="tensorboard,jsonl", out=str(folder), log_every=2, eval_every=3)
    assert_same_as_csv(folder)
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }
    expected = {}
    for step, values in logged_points(folder):
        for name, value in values.items():
            expected.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    assert found == expected
    assert set(found) >= LOGGED
    assert len(found["train/loss"]) == 3 * 3
    assert found["class_il/task3"][-1] == (15, pytest.approx(results.class_il[-1][2]))
    texts = {
        name.removesuffix("/text_summary"): events.Tensors(name)[0].tensor_proto.string_val[0]
        for name in events.Tags()["tensors"]
    }
    config = texts["config"].decode()
    for name, value in results.config.items():
        assert f"| {name} | {value} |" in config
    for name in ("class_il", "task_il"):
        matrix = texts[f"accuracy/{name}"].decode()
        for row in getattr(results, name):
            assert " | ".join(f"{100 * accuracy:.2f} %" for accuracy in row) in matrix


def wandb_records(path):
    """Yields the records of an offline run: LevelDB's log format after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts = path.read_bytes(), 7, b""
    while position < len(content):
        if 2**15 - position % 2**15 < 7:  # too little for a header: padding of the block
            position += 2**15 - position % 2**15
            continue
        if len(content) - position < 7:
            return  # half written
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if len(content) - position - 7 < length:
            return
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # complete, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def wandb_items(items):
    """Returns what a record says, by name; nested names have dots."""
    return {i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items}


def test_wandb_offline_has_all_that_was_logged(run_tiny, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_X_SERVICE_WAIT", "600")  # seconds, for its process to start
    folder = tmp_path / "run"
    *_, results = run_tiny(
        log="wandb,jsonl", out=str(folder), log_every=2, eval_every=3, notes="first try"
    )
    (path,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    records, deadline = [], time.monotonic() + 600
    # The process of W&B writes the last records shortly after `finish`.
    while not any(record.HasField("exit") for record in records):
        assert time.monotonic() < deadline, "the run was not finished"
        time.sleep(0.05)
        records = list(wandb_records(path))
    history, config, summary, runs = [], {}, {}, []
    for record in records:
        history.append(wandb_items(record.history.item))
        config |= wandb_items(record.run.config.update)
        summary |= wandb_items(record.summary.update)
        runs += [record.run] if record.HasField("run") else []
    found = [
        (row["step"], {name: value for name, value in row.items() if "/" in name})
        for row in history
        if "step" in row and not any(name.startswith("accuracy/") for name in row)
    ]
    assert found == logged_points(folder)
    assert {name for _, values in found for name in values} >= LOGGED
    assert {name: config[name] for name in results.config} == results.config
    assert (runs[0].project, runs[0].display_name, runs[0].notes) == (
        "mammoth_compiled",
        "run",
        "first try",
    )
    figures = {name: value for name, value in results.summary().items() if value is not None}
    assert {name: summary[name] for name in figures} == figures
    for name in ("class_il", "task_il"):
        (table_file,) = (
            row[f"accuracy/{name}.path"] for row in history if f"accuracy/{name}.path" in row
        )
        table = json.loads((path.parent / "files" / table_file).read_text())
        assert table["columns"] == ["after", "task1", "task2", "task3"]
        rows = [row[1 : 1 + len(row[1:]) - row[1:].count(None)] for row in table["data"]]
        assert rows == getattr(results, name)


def test_wandb_that_refuses_leaves_nothing(run_tiny, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")

    def refuse(**_):
        raise wandb.errors.UsageError("No API key configured. Use `wandb login` to log in.")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(MammothError) as caught:
        run_tiny(log="wandb", out=str(tmp_path / "run"))
    assert str(caught.value) == (
        "--log wandb: No API key configured. Use `wandb login` to log in. WANDB_MODE=offline logs "
        "to files, without an account"
    )
    assert [path.name for path in tmp_path.iterdir()] == []


# --- Arguments -------------------------------------------------------------------------------


def test_names():
    assert {"csv", "jsonl", "tensorboard", "wandb"} <= {c.NAME for c in logger_classes()}
    with pytest.raises(ConfigError, match=r"--log: unknown logger 'tensorbord'. Did you mean"):
        logger_classes("csv,tensorbord")


def test_a_missing_package(monkeypatch):
    monkeypatch.setattr(loggers.base, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--log wandb needs .* pip install \"mammoth-compiled\["):
        logger_classes("csv,wandb")


def test_the_directory(run_tiny, tmp_path):
    run_tiny(log="csv", log_dir=str(tmp_path / "logs"))
    (folder,) = (tmp_path / "logs").iterdir()
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "metrics.csv"}
    run_tiny(log="jsonl", log_dir=str(tmp_path / "logs"), out=str(tmp_path / "run"))
    names = {path.name for path in (tmp_path / "logs" / "run").iterdir()}
    assert names == {"config.yaml", "metrics.csv", "metrics.jsonl"}
    with pytest.raises(ConfigError, match="--log csv needs a place: give --log_dir DIR or --out"):
        run_tiny(log="csv")


def test_nowand(run_tiny, tmp_path):
    run_tiny(log="wandb,jsonl", nowand=1, log_dir=str(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "metrics.jsonl"}


def test_a_logger_of_the_user(run_tiny, tmp_path):
    class Printed(Memory):
        NAME = "printed"

    try:
        run_tiny(log="printed", log_dir=str(tmp_path))
        assert "printed" in {cls.NAME for cls in logger_classes()}
    finally:
        Printed.NAME = ""  # subclasses live until they are collected
