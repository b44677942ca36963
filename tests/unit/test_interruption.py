"""Signals during a run in this process, and errors of observers: results are never lost."""

import json
import signal
import threading

import pytest

from mammoth_compiled import load_runner, train
from mammoth_compiled.engine.observer import Observer
from mammoth_compiled.errors import MammothError
from mammoth_compiled.files import lock
from mammoth_compiled.observers import checkpoint
from mammoth_compiled.observers.bundle import BundleExporter
from mammoth_compiled.observers.results import ResultsWriter
from mammoth_compiled.signals import SIGNALS, end_process, signals_end_process
from mammoth_compiled.startup import is_command_line


class Signaler(Observer):
    """Sends a signal in a step of the second task, and counts the steps of that task."""

    def __init__(self, number):
        self.number = number
        self.steps = 0

    def end_step(self, run, loss, num_images):
        if run.task == 1:
            self.steps += 1
            if self.steps == 2:
                signal.raise_signal(self.number)


@pytest.fixture
def handlers():
    """The handlers of all signals, the same at the end of the test."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def failing(hook, error):
    """Returns an observer that raises an error in one hook."""

    def fail(*_):
        raise error

    return type("Failing", (Observer,), {hook: fail})()


@pytest.mark.parametrize("compile", ["off", "on"])
def test_interrupt_stops_after_the_current_step(
    run_tiny, handlers, capfd, compile, compiled_functions
):
    signaler = Signaler(signal.SIGINT)
    _, _, results = run_tiny(observers=[signaler], compile=compile)
    assert results.interrupted
    assert signaler.steps == 2
    assert len(results.class_il) == 1
    expected = "SIGINT: stopping after the current step; a second signal ends at once\n"
    assert capfd.readouterr().err == expected


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_the_command_line_after_results_are_written(
    run_tiny, handlers, tmp_path, number
):
    path = tmp_path / "results.json"
    signaler = Signaler(number)
    with pytest.raises(SystemExit) as caught, signals_end_process():
        run_tiny(observers=[signaler, ResultsWriter(path)])
    assert caught.value.code == 128 + number
    assert signaler.steps == 2
    assert len(json.loads(path.read_text())["class_il"]) == 1


@pytest.mark.parametrize("before", ["keep_results", "end_run"])
def test_signal_at_the_end_of_a_run_loses_no_results(run_tiny, handlers, tmp_path, before):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    ended = []
    interrupter = type("Interrupter", (Observer,), {"ORDER": -20, before: interrupt})()
    last = type("Last", (Observer,), {"close": lambda self, run: ended.append(run.results)})()
    path = tmp_path / "results.json"
    with pytest.raises(KeyboardInterrupt):
        run_tiny(observers=[interrupter, ResultsWriter(path), last])
    content = json.loads(path.read_text())
    assert (len(content["class_il"]), content["interrupted"]) == (3, False)
    assert len(ended) == 1


def test_signal_after_another_reason_to_stop_loses_no_results(run_tiny, handlers, tmp_path):
    """As when the process of a sweep is killed while a run of it asks whether to go on."""

    class Stops(Observer):
        ORDER = -20

        def end_task(self, run, evaluation):
            run.stop_signal = signal.SIGINT

        def keep_results(self, run):
            signal.raise_signal(signal.SIGINT)

    path = tmp_path / "results.json"
    assert run_tiny(observers=[Stops(), ResultsWriter(path)])[2].interrupted
    assert len(json.loads(path.read_text())["class_il"]) == 1


def test_second_interrupt_acts_at_once(tiny, handlers):
    class Twice(Observer):
        steps = 0

        def end_step(self, run, loss, num_images):
            self.steps += 1
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)

    twice = Twice()
    args = {"batch_size": 8, "compile": "off"}
    assert train(*load_runner("sgd", "seq-tiny", args), observers=[twice]).interrupted
    assert twice.steps == 1


def test_user_handler_is_kept(run_tiny, handlers):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        _, _, results = run_tiny(observers=[Signaler(signal.SIGTERM)])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert not results.interrupted


def test_ignored_signal_stays_ignored(handlers, run_tiny):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_end_process():
            assert not run_tiny(observers=[Signaler(signal.SIGHUP)])[2].interrupted
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_outside_the_main_thread(run_tiny, handlers):
    results = []
    thread = threading.Thread(target=lambda: results.append(run_tiny()[2]))
    thread.start()
    thread.join()
    assert len(results[0].class_il) == 3


def test_signals_outside_training_end_the_process(handlers):
    with signals_end_process():
        assert signal.getsignal(signal.SIGTERM) is end_process
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(SystemExit) as caught:
            signal.raise_signal(signal.SIGTERM)
    assert caught.value.code == 143


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["python", "-m", "mammoth_compiled.run", "--list"], True),
        (["python", "-X", "dev", "-m", "mammoth_compiled.run"], True),
        (["python", "-m", "mammoth_compiled.export", "verify"], True),
        (["python", "-m", "mammoth_compiled.report", "runs"], True),
        (["python", "program.py", "mammoth_compiled.run"], False),
        (["python", "-m", "mammoth_compiled.exporting"], False),
        (["python", "-m"], False),
    ],
)
def test_start_up_handler_is_for_the_command_line_only(argv, expected):
    assert is_command_line(argv) is expected


@pytest.mark.parametrize("hook", ["end_run", "close"])
@pytest.mark.parametrize("error", [MammothError("disk full"), OSError("no"), KeyboardInterrupt()])
def test_failing_observer_does_not_stop_the_others(run_tiny, tmp_path, hook, error):
    path = tmp_path / "results.json"
    with pytest.raises(type(error)):
        run_tiny(observers=[failing(hook, error), ResultsWriter(path)])
    assert len(json.loads(path.read_text())["class_il"]) == 3
    with lock(path, "results", "--results_path"):
        pass  # it was released


def test_message_names_every_error(run_tiny):
    observers = [failing("end_run", MammothError("first")), failing("end_run", MammothError("2nd"))]
    with pytest.raises(MammothError, match=r"^first; 2nd$"):
        run_tiny(observers=observers)


@pytest.mark.parametrize("error", [MammothError("cannot export"), SystemExit(3)])
def test_results_of_finished_tasks_survive_an_error(run_tiny, tmp_path, error):
    class Fails(Observer):
        def end_task(self, run, evaluation):
            if run.task == 1:
                raise error

    path = tmp_path / "results.json"
    with pytest.raises(type(error), match=f"^{error}$"):
        run_tiny(observers=[Fails(), ResultsWriter(path)])
    content = json.loads(path.read_text())
    assert content["interrupted"] is True
    assert len(content["class_il"]) == 2


@pytest.mark.parametrize(("task", "fails"), [(1, False), (3, True)])
def test_checkpoint_that_cannot_be_written(run_tiny, tmp_path, monkeypatch, capsys, task, fails):
    save = checkpoint.save

    def save_or_fail(run):
        if len(run.results.class_il) == task:
            raise MammothError("cannot write it: no space left on device")
        return save(run)

    monkeypatch.setattr(checkpoint, "save", save_or_fail)
    path = tmp_path / "results.json"
    kwargs = {"observers": [ResultsWriter(path)], "savecheck": "task"}
    if fails:
        with pytest.raises(MammothError, match="no space left"):
            run_tiny(**kwargs)
    else:
        run_tiny(**kwargs)
    assert "checkpoint: cannot write it: no space left" in capsys.readouterr().out
    assert len(json.loads(path.read_text())["class_il"]) == 3


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("results.json", {}, "another run is writing results to .*give another --results_path"),
        (
            "sgd_seq-tiny_tiny-net_seed0",
            {"savecheck": "last"},
            "another run is writing checkpoints to .*give another --checkpoint_path",
        ),
    ],
)
def test_two_runs_with_the_same_output(run_tiny, tmp_path, name, args, message):
    observers = [ResultsWriter(tmp_path / "results.json")]
    args = {**args, "checkpoint_path": str(tmp_path)}
    with lock(tmp_path / name, "", ""), pytest.raises(MammothError, match=message):
        run_tiny(observers=observers, **args)
    run_tiny(observers=observers, **args)


def test_interrupted_run_keeps_the_checkpoint_of_its_last_task(run_tiny, tmp_path):
    class Stops(Observer):
        def begin_epoch(self, run):
            if run.task == 1:
                signal.raise_signal(signal.SIGINT)

    run_tiny(observers=[Stops()], savecheck="task", checkpoint_path=str(tmp_path))
    assert [path.name for path in tmp_path.glob("*.pt")] == ["sgd_seq-tiny_tiny-net_seed0_task1.pt"]


def test_two_runs_with_the_same_bundle(run_tiny, tmp_path):
    exporter = BundleExporter(tmp_path / "bundle")
    message = "another run is writing a bundle to .*give another --export"
    with (
        lock(tmp_path / "bundle", "a bundle", "--export"),
        pytest.raises(MammothError, match=message),
    ):
        run_tiny(observers=[exporter])
    assert list(tmp_path.iterdir()) == []
