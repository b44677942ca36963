"""Flags of training and protocol and Mammoth's aliases, each alone on a command line."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mammoth_compiled import base_path

pytestmark = pytest.mark.usefixtures("tiny")

# Two epochs of three steps (16, 16 and 4 images) on each of three tasks.
RUN = ("--model", "sgd", "--dataset", "seq-tiny", "--seed", "0", "--batch_size", "16")
RUN += ("--n_epochs", "2", "--log_every", "1")
EAGER = ("--compile", "off")


@pytest.fixture
def run(command, tmp_path):
    """Returns a function that trains with more flags and returns what the run left behind."""

    def run(*flags):
        folder = tmp_path / "run"
        code, out, err = command(*RUN, *flags, "--out", folder)
        assert (code, err) == (0, "")
        results = json.loads((folder / "results.json").read_text())
        assert results["interrupted"] is False
        return SimpleNamespace(folder=folder, out=out, **results)

    return run


def logged(ran, name):
    """Returns the values of a metric in the order in which they were logged."""
    with (ran.folder / "metrics.csv").open(newline="") as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def lengths(rows):
    return [len(row) for row in rows]


# --- Checks: each asserts what the flag changes in a run of RUN ------------------------------


def validates(ran):
    # Six of 18 images of each class are held out, and evaluated on instead of the 10 of the test.
    assert ran.train_images == [2 * 24] * 3
    assert "accuracies are those on validation images" in ran.out
    assert all(round(12 * accuracy, 6).is_integer() for accuracy in ran.class_il[0])


def stops_early(ran):
    assert ran.config["fitting_mode"] == "early_stopping"
    # Whole epochs of 24 images: at least one that improves and one that does not.
    assert all(images >= 48 and images % 24 == 0 for images in ran.train_images)


def counts_steps(ran):
    assert ran.notes["steps"] == 3 * 4
    assert ran.train_images == [36 + 16] * 3


def takes_time(ran):
    assert all(0.06 <= seconds < 30 for seconds in ran.train_s)
    assert ran.notes["steps"] == len(logged(ran, "train/loss")) >= 3


def stops_after(ran):
    assert lengths(ran.class_il) == [1, 2]
    assert "Accuracy after task 2" in ran.out
    assert "Accuracy after task 3" not in ran.out


def starts_from(ran):
    assert lengths(ran.class_il) == [0, 2, 3]
    assert ran.train_images == [0, 72, 72]


def only_evaluates(ran):
    assert lengths(ran.class_il) == [1, 2, 3]
    assert ran.train_images == [0, 0, 0]
    assert logged(ran, "train/loss") == []


def evaluates_future_tasks(ran):
    assert lengths(ran.future_class_il) == [2, 1, 0]
    assert ran.summary["forward_transfer_task_il"] is not None


def evaluates_every_epoch(ran):
    places = [(point["task"], point["epoch"], point["step"]) for point in ran.curve]
    assert places == [(task, epoch, 3 * (epoch + 1)) for task in range(3) for epoch in (0, 1)]


def drops_the_last_batch(ran):
    assert ran.train_images == [2 * 32] * 3
    assert ran.notes["steps"] == 3 * 4


def permutes_classes(ran):
    assert sorted(ran.class_names) == list("012345")
    assert ran.class_names != list("012345")


def orders_classes(ran):
    assert ran.class_names == list("543210")


def names_checkpoints(ran):
    assert {path.name for path in (ran.folder / "checkpoints").glob("*.pt")} == {"mine_task3.pt"}


def sets_the_data_directory(ran):
    assert ran.config["data_dir"] == "elsewhere"
    assert Path(base_path()) == Path("elsewhere")


def logs_no_wandb(ran):
    assert not (ran.folder / "wandb").exists()
    assert (ran.folder / "metrics.jsonl").is_file()


def decays_the_learning_rate(ran):
    assert logged(ran, "train/lr") == pytest.approx(3 * ([0.03] * 3 + [0.015] * 3))


CASES = {
    "--validation 33": validates,
    "--validation 33 --early_stopping --early_stopping_patience 1": stops_early,
    "--validation 33 --fitting_mode early_stopping --early_stopping_patience 1": stops_early,
    "--fitting_mode iters --n_iters 4": counts_steps,
    "--fitting_mode time --n_minutes 0.001": takes_time,
    "--stop_after 2": stops_after,
    "--start_from 1": starts_from,
    "--inference_only": only_evaluates,
    "--eval_future": evaluates_future_tasks,
    "--eval_epochs 1": evaluates_every_epoch,
    "--drop_last": drops_the_last_batch,
    "--permute_classes": permutes_classes,
    "--custom_class_order 5,4,3,2,1,0": orders_classes,
    "--savecheck last --ckpt_name mine": names_checkpoints,
    "--base_path elsewhere": sets_the_data_directory,
    "--log wandb,jsonl --nowand": logs_no_wandb,
    "--lr_scheduler multisteplr --lr_milestones 1 --sched_multistep_lr_gamma 0.5": (
        decays_the_learning_rate
    ),
}


@pytest.mark.parametrize("flags", CASES)
def test_flag(run, flags):
    CASES[flags](run(*EAGER, *flags.split()))


def test_notes_may_have_spaces(run):
    ran = run(*EAGER, "--notes", "first try")
    assert ran.config["notes"] == "first try"
    assert "notes: first try" in ran.out


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, ("off", "highest", "off")),
        (1, ("off", "high", "off")),
        (2, ("off", "auto", "bf16")),
        (3, ("on", "auto", "bf16")),
    ],
)
def test_code_optimization(run, compiled_functions, monkeypatch, level, expected):
    dtypes = set()
    linear = torch.nn.functional.linear

    def spy(x, weight, bias=None):
        dtypes.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype)
        return linear(x, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", spy)
    ran = run("-O", level)
    config = ran.config
    assert (config["compile"], config["precision"], config["amp"]) == expected
    assert ran.notes["compile"] is (level == 3)
    assert bool(compiled_functions) is (level == 3)
    assert level == 3 or (torch.bfloat16 in dtypes) == (level == 2)


def test_the_run_can_be_evaluated_again(run, command, tmp_path):
    ran = run(*EAGER, "--savecheck", "last", "--ckpt_name", "mine")
    checkpoint = ran.folder / "checkpoints" / "mine_task3.pt"
    words = (*RUN, *EAGER, "--inference_only", "--loadcheck", checkpoint, "--out", tmp_path / "b")
    assert command(*words)[0] == 0
    again = json.loads((tmp_path / "b" / "results.json").read_text())
    assert again["class_il"] == ran.class_il


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stop_afte", "1"], "Did you mean '--stop_after'"),
        (["--eval_epoch", "1"], "'--eval_epochs' or '--n_epochs' or '--eval_every'?"),
        (["--wandb_project", "x"], "Mammoth's argument has none here; set the environment"),
        (["--validation_mode", "complete"], "argument --validation_mode: Mammoth's argument has"),
        (["--fitting_mode", "iters"], "--fitting_mode iters and --n_iters go together"),
    ],
)
def test_refused(command, tmp_path, words, message):
    code, _, err = command(*RUN, *EAGER, *words, "--out", tmp_path / "run")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()
