"""The run folder: what it contains, when it is created, and which one a resumed run continues."""

import csv
import json

import pytest
import yaml

from mammoth_compiled.config.schema import ExperimentConfig, FilesConfig, RunConfig
from mammoth_compiled.engine import Observer, run_folder
from mammoth_compiled.errors import MammothError
from mammoth_compiled.loggers import Logger
from mammoth_compiled.models.sgd import SGD
from mammoth_compiled.registry import backbones

pytestmark = pytest.mark.usefixtures("tiny")

RUN = (
    *("--model", "sgd", "--dataset", "seq-tiny", "--compile", "off", "--seed", "0"),
    *("--batch_size", "16", "--n_epochs", "2"),
)

FILES = "config.yaml log.txt metrics.csv results.json report.html"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Lets runs have folders, in the directory that is returned."""
    monkeypatch.setenv("MAMMOTH_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def losses(folder):
    return [(int(r["step"]), r["value"]) for r in rows(folder) if r["name"] == "train/loss"]


def test_contents(command, runs):
    code, out, err = command(*RUN, "--savecheck", "task", "--notes", "first try")
    assert (code, err) == (0, "")
    (folder,) = runs.iterdir()
    assert folder.name.endswith("-sgd-seq-tiny-tiny-net-s0")
    assert f"run: {folder}\n" in out
    names = {path.name for path in folder.iterdir()}
    assert names >= {*FILES.split(), "checkpoints"}
    assert len(list((folder / "checkpoints").iterdir())) == 3
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert (config["model"], config["lr"], config["width"]) == ("sgd", 0.03, 4)
    assert "out" not in config
    assert folder.name in (folder / "report.html").read_text()
    results = json.loads((folder / "results.json").read_text())
    assert results["config"]["out"] == str(folder)
    assert results["notes"]["steps"] == 3 * 2 * 3
    logged = {row["name"]: float(row["value"]) for row in rows(folder)}
    assert logged["class_il/task3"] == results["class_il"][-1][2]
    assert logged["test/forgetting_class_il"] == results["summary"]["forgetting_class_il"]
    log = (folder / "log.txt").read_text()
    assert "notes: first try" in log
    for line in filter(None, out.splitlines()):
        assert line in log or line == "Accuracy in %:"


def test_off(command, tmp_path, runs, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(*RUN, "--out", "off")
    assert code == 0
    assert "run: " not in out
    monkeypatch.setenv("MAMMOTH_RUNS", "off")
    assert command(*RUN)[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("--lr", "-1"), ("--width", "-3"), ("--log", "csv,tape")])
def test_a_refused_configuration_leaves_no_folder(command, runs, words):
    code, _, err = command(*RUN, *words)
    assert code == 2, err
    assert not runs.exists()


def test_runs_of_the_same_second(runs, monkeypatch):
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "20260101-000000")
    config = RunConfig(experiment=ExperimentConfig(model="m", dataset="d", backbone="b"))
    with run_folder.run_folder(config) as one, run_folder.run_folder(config) as other:
        assert one == f"{runs}/20260101-000000-m-d-b"
        assert other == f"{one}-2"
    assert not runs.exists()


def test_a_folder_in_use_is_refused(command, tmp_path):
    assert command(*RUN, "--out", tmp_path / "mine")[0] == 0
    before = (tmp_path / "mine" / "results.json").read_bytes()
    code, _, err = command(*RUN, "--out", tmp_path / "mine")
    assert code == 2
    assert err == (
        f"error: --out {tmp_path}/mine contains a run: give the path of a new folder, or --resume "
        "to continue the run\n"
    )
    _, _, err = command(*RUN, "--out", tmp_path / "mine", "--resume", "--lr", "0.5")
    assert "of another configuration (--lr 0.03 -> 0.5)" in err
    assert (tmp_path / "mine" / "results.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    assert "is not a directory" in command(*RUN, "--out", tmp_path / "file")[2]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    assert "contains other files" in command(*RUN, "--out", tmp_path / "thesis")[2]
    assert len(list((tmp_path / "thesis").iterdir())) == 1


def test_a_directory_that_cannot_be_created(command, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MAMMOTH_RUNS", str(tmp_path / "file"))
    code, _, err = command(*RUN)
    assert code == 2
    assert f"error: cannot create the run folder {tmp_path}/file" in err
    assert "--out off" in err


def interrupted_in_task_2(monkeypatch, command, *words):
    def observe(self, *args, **kwargs):
        loss = real(self, *args, **kwargs)
        calls.append(loss)
        if len(calls) == 6 + 4:
            raise KeyboardInterrupt
        return loss

    calls, real = [], SGD.observe
    with monkeypatch.context() as patch:
        patch.setattr(SGD, "observe", observe)
        assert command(*words)[0] == 130


def test_resume_continues_in_the_folder(command, runs, tmp_path, monkeypatch):
    words = (*RUN, "--resume", "--log_every", "1")
    interrupted_in_task_2(monkeypatch, command, *words)
    (folder,) = runs.iterdir()
    assert len(losses(folder)) == 6 + 3
    assert json.loads((folder / "results.json").read_text())["interrupted"] is True
    command(*RUN, "--lr", "0.5")  # of another configuration
    code, out, _ = command(*words)
    assert code == 0
    assert f"run: {folder}\n" in out
    assert "loaded, 1 tasks done" in out
    assert json.loads((folder / "results.json").read_text())["interrupted"] is False
    assert "Accuracy after task 1" in (folder / "log.txt").read_text()
    # What the interrupted run logged after its checkpoint is replaced.
    command(*RUN, "--log_every", "1", "--out", tmp_path / "whole")
    assert losses(folder) == losses(tmp_path / "whole")
    assert [step for step, _ in losses(folder)] == list(range(1, 19))


def test_resume_within_a_task(command, runs, tmp_path, monkeypatch):
    words = (*RUN, "--resume", "--log_every", "1", "--checkpoint_every", "2", "--eval_every", "3")
    interrupted_in_task_2(monkeypatch, command, *words)
    (folder,) = runs.iterdir()
    _, out, _ = command(*words)
    assert "continues task 2 after 2 steps" in out
    assert list(runs.iterdir()) == [folder]
    command(*words, "--out", tmp_path / "whole")
    assert losses(folder) == losses(tmp_path / "whole")
    accuracies = [
        [(r["step"], r["name"], r["value"]) for r in rows(path) if "_il" in r["name"]]
        for path in (folder, tmp_path / "whole")
    ]
    assert accuracies[0] == accuracies[1]
    assert {step for step, *_ in accuracies[0]} == {"3", "6", "9", "12", "15", "18"}
    assert json.loads((folder / "results.json").read_text())["notes"]["steps"] == 18


def test_the_total_time_includes_what_was_done_before(command, runs, monkeypatch):
    words = (*RUN, "--resume")
    command(*words)
    results = json.loads(next(runs.glob("*/results.json")).read_text())
    _, out, _ = command(*words)
    before = sum(results["train_s"]) + sum(results["eval_s"])
    (line,) = [line for line in out.splitlines() if line.startswith("total: ")]
    assert f"({before:.1f} s before it was resumed)" in line
    assert float(line.split()[1]) >= round(before, 1)


def test_a_run_from_python_has_a_folder_if_it_asks(run_tiny, runs, tmp_path):
    run_tiny()
    assert not runs.exists()
    _, _, results = run_tiny(out=str(tmp_path / "mine"), log="jsonl")
    written = json.loads((tmp_path / "mine" / "results.json").read_text())
    assert written["class_il"] == results.class_il
    assert (tmp_path / "mine" / "metrics.jsonl").is_file()
    with pytest.raises(MammothError, match="contains a run"):
        run_tiny(out=str(tmp_path / "mine"))


def test_an_error_is_in_the_log(command, runs, run_tiny, tmp_path):
    code, _, err = command(*RUN, "--backbone", "mnistmlp", "--lr", "1e30")
    assert code == 2
    (folder,) = runs.iterdir()
    assert err in (folder / "log.txt").read_text()
    assert not (folder / "results.json").exists()

    class Fails(Observer):
        def begin_task(self, run):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        run_tiny(out=str(tmp_path / "failed"), observers=[Fails()])
    log = (tmp_path / "failed" / "log.txt").read_text()
    assert "Traceback" in log
    assert "RuntimeError: mine" in log


def test_two_runs_in_a_folder_at_the_same_time(run_tiny, tmp_path):
    class StartsAnother(Observer):
        def begin_task(self, run):
            with pytest.raises(MammothError, match="another run is writing"):
                run_tiny(out=str(tmp_path / "mine"), resume=True)
            raise KeyboardInterrupt

    run_tiny(out=str(tmp_path / "mine"), resume=True, observers=[StartsAnother()])


def test_quiet(command, runs):
    code, out, err = command(*RUN, "--quiet")
    assert (code, err) == (0, "")
    assert out.startswith("\nAccuracy in %:\n")
    assert out.count("\n") == 1 + 1 + 1 + 3 + 1
    (folder,) = runs.iterdir()
    assert "Accuracy after task 3" in (folder / "log.txt").read_text()


def test_the_configuration_starts_the_same_run(command, tmp_path):
    words = ("--lr_scheduler", "multistep", "--lr_milestones", "1", "2", "--width", "3")
    command(*RUN, *words, "--out", tmp_path / "one")
    code, _, err = command("--config", tmp_path / "one/config.yaml", "--out", tmp_path / "other")
    assert (code, err) == (0, "")
    one, other = (json.loads((tmp_path / n / "results.json").read_text()) for n in ("one", "other"))
    assert one["loss"] == other["loss"]
    assert {**one["config"], "out": ""} == {**other["config"], "out": ""}


def test_a_bundle_in_the_folder(command, runs):
    assert command(*RUN, "--export", "--formats", "safetensors")[0] == 0
    (folder,) = runs.iterdir()
    assert (folder / "bundle" / "manifest.json").is_file()


def test_the_configuration_can_be_given_again():
    config = RunConfig(files=FilesConfig(out="x"), extra={"num_classes": 6, "stages": (1, 2)})
    saved = yaml.safe_load(run_folder.config_text(config))
    assert saved["stages"] == [1, 2]
    assert not {"out", "num_classes"} & set(saved)


# --- Names and what failed runs leave ----------------------------------------------------------


@pytest.fixture
def colon(tiny):
    """Registers tiny-net under a name with a colon, as timm:NAME has, and returns it."""
    backbones.register("tiny:net")(tiny.Net)
    return "tiny:net"


def test_names_of_files_have_no_colon(command, runs, colon):
    code, _, err = command(*RUN, "--backbone", colon, "--savecheck", "last")
    assert (code, err) == (0, "")
    (folder,) = runs.iterdir()
    assert folder.name.endswith("-sgd-seq-tiny-tiny_net-s0")
    assert [path.name for path in folder.rglob("*:*")] == []
    assert (folder / "checkpoints" / "sgd_seq-tiny_tiny_net_seed0_task3.pt").is_file()


def test_resume_finds_folders_and_checkpoints_with_a_colon(command, runs, colon):
    words = (*RUN, "--backbone", colon, "--resume")
    command(*words)
    (folder,) = runs.iterdir()
    for path in (folder / "checkpoints").iterdir():
        path.rename(path.with_name(path.name.replace("tiny_net", colon)))
    earlier = folder.rename(folder.with_name(folder.name.replace("tiny_net", colon)))
    code, out, _ = command(*words)
    assert code == 0
    assert f"run: {earlier}\n" in out
    assert "tiny:net_seed0_task3.pt loaded, 3 tasks done" in out
    assert list(runs.iterdir()) == [earlier]


def test_the_last_lines_say_how_to_go_on(command, tmp_path):
    folder = tmp_path / "my run"
    _, out, _ = command(*RUN, "--out", folder, "--export", "--formats", "onnx")
    lines = out.splitlines()
    assert lines[-3:] == [
        f"run: {folder}",
        f"report: {folder}/report.html",
        f"compare: python -m mammoth_compiled.report '{folder}' OTHER_RUN ...",
    ]
    assert (folder / "report.html").is_file()
    assert f"browser   python -m mammoth_compiled.export open '{folder}/bundle'" in lines
    _, out, _ = command(*RUN, "--export", tmp_path / "weights", "--formats", "safetensors")
    assert "browser" not in out


def test_an_interrupted_run_names_its_folder(command, runs, monkeypatch, capsys):
    words = (*RUN, "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(SGD, "end_task", lambda self, dataset: interrupt(dataset))
        code, out, _ = command(*words)
    (folder,) = runs.iterdir()
    assert code == 130
    assert f"run: {folder}\n" in out
    assert "total: " not in out


def interrupt(dataset):
    if dataset.c_task == 1:
        raise KeyboardInterrupt


class Refuses(Logger):
    """A logger that cannot begin."""

    def begin(self, run):
        (run.directory / "half-made").write_text("")
        raise MammothError("no account")

    def log(self, point):
        raise AssertionError("it has not begun")


@pytest.mark.parametrize("log_dir", [(), ("--log_dir", "logs/mine")])
def test_a_logger_that_cannot_begin_leaves_no_folder(command, runs, tmp_path, monkeypatch, log_dir):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Refuses, "NAME", "refuses")
    code, _, err = command(*RUN, "--log", "jsonl,refuses", *log_dir)
    assert (code, err) == (2, "error: no account\n")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_start_keeps_what_was_there(command, runs, monkeypatch):
    command(*RUN, "--resume")
    (folder,) = runs.iterdir()
    before = {path.name for path in folder.iterdir()}
    monkeypatch.setattr(Refuses, "NAME", "refuses")
    assert command(*RUN, "--resume", "--log", "refuses")[0] == 2
    assert {path.name for path in folder.iterdir()} == {*before, "half-made"}
