"""The command line: help, listing, complete runs, and errors in one line."""

import json
import os
import sys

import pytest
import torch

from mammoth_compiled import base_path, load_bundle, load_runner, train
from mammoth_compiled.checkpoint import read_checkpoint
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.export.formats import default_formats
from mammoth_compiled.export.variants.convert import VARIANTS
from mammoth_compiled.models.sgd import SGD
from mammoth_compiled.registry import models

PLUGIN = '''
"""User code: a dataset and backbones."""
import numpy as np
from PIL import Image
from torch import nn
from torchvision import transforms
from mammoth_compiled import (
    ContinualDataset, MammothBackbone, MammothDataset, register_backbone, register_dataset,
)

class Noise(MammothDataset):
    def __init__(self, n):
        generator = np.random.default_rng(0)
        self.data = generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
        self.targets = np.arange(n) % 4
        self.transform = transforms.ToTensor()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        image = Image.fromarray(self.data[i])
        return self.transform(image), int(self.targets[i]), self.not_aug_transform(image)

@register_dataset("seq-noise")
class SequentialNoise(ContinualDataset):
    """Noise in two tasks."""
    SETTING, N_CLASSES_PER_TASK, N_TASKS, SIZE = "class-il", 2, 2, (8, 8)
    TRANSFORM = TEST_TRANSFORM = transforms.ToTensor()
    MEAN, STD = (0.0,) * 3, (1.0,) * 3

    def get_data_loaders(self):
        return Noise(40), Noise(20)

    @staticmethod
    def get_backbone():
        return "flat-net"

class FlatNet(MammothBackbone):
    def __init__(self, num_classes, width):
        super().__init__()
        self.body = nn.Linear(192, width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, x, returnt="out"):
        features = self.body(x.flatten(1)).relu()
        logits = self.classifier(features)
        return {"out": logits, "features": features, "both": (logits, features)}[returnt]

@register_backbone("flat-net")
def flat_net(num_classes, width: int = 4):
    """One hidden layer."""
    return FlatNet(num_classes, width)

@register_backbone("needs-depth")
def needs_depth(num_classes, depth: int):
    return FlatNet(num_classes, depth)

@register_backbone("liar")
def liar(num_classes):
    net = FlatNet(num_classes, 4)
    forward = net.forward
    net.forward = lambda x, returnt="out": (
        (forward(x) + 1, forward(x, "features")) if returnt == "both" else forward(x, returnt)
    )
    return net

@register_backbone("five-classes")
def five_classes(num_classes):
    return FlatNet(5, 4)
'''


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN)
    yield str(path)
    sys.modules.pop("plugin", None)


TINY = (
    "--dataset",
    "seq-noise",
    "--n_epochs",
    1,
    "--batch_size",
    8,
    "--compile",
    "off",
    "--seed",
    0,
)


# --- Help and listing ------------------------------------------------------------------------


def test_list(command):
    code, out, err = command("--list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "Models:",
        "Datasets:",
        "Backbones:",
    ]
    for name in ("derpp", "seq-fmnist-mini", "attention-cnn", "resnet18", "seq-cifar100", "joint"):
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert len(line.split()) > 3
    assert all(len(line) < 120 for line in lines)


def test_list_includes_user_code(command, plugin):
    _, out, _ = command("--import", plugin, "--list")
    assert "seq-noise          Noise in two tasks." in out
    assert "flat-net           One hidden layer." in out


def test_show_config_names_values_and_sources(command):
    code, out, err = command(
        *("--model", "er", "--dataset", "seq-fmnist-mini", "--lr", 0.25, "--show_config")
    )
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["lr", "0.25", "#", "given"] in lines
    assert ["seed", "-"] in lines


def test_config_file_with_a_grid(command, plugin, tmp_path):
    path = tmp_path / "exp.yaml"
    path.write_text("model: sgd\ndataset: seq-noise\nlr: [0.1, 0.2]\ncompile: off\nseed: 0\n")
    code, out, err = command("--import", plugin, "--config", path, "--dry_run", "--n_epochs", 3)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("run ")] == ["run 1 of 2", "run 2 of 2"]
    assert [line.split()[1] for line in lines if line.split()[0] == "lr"] == ["0.1", "0.2"]
    # 2 tasks of 20 images in batches of 32, 3 epochs.
    estimates = [line for line in lines if "of training in eager mode" in line]
    assert [line.split()[:2] for line in estimates] == [["6", "steps"]] * 2


ARGUMENTS = """model dataset backbone lr batch_size n_epochs joint optimizer optim_wd optim_mom
optim_nesterov device precision deterministic num_workers debug_mode savecheck loadcheck seed
data_dir compile amp export formats export_variants export_each_task results_path import list
explain html config show_config dry_run"""


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(command, flag):
    code, out, err = command(flag)
    assert (code, err) == (0, "")
    for group in ("Experiment:", "Optimizer:", "Compute:", "Files:", "Other:"):
        assert f"\n{group}\n" in out
    for argument in ARGUMENTS.split():
        assert f"--{argument} " in out or f"--{argument}\n" in out
    assert "--alpha" not in out


def test_help_of_export_flags_matches_export(command):
    _, out, _ = command("--help")
    text = " ".join(out.split())
    assert f"(default: {','.join(default_formats())})" in text
    assert f"as well: {', '.join(VARIANTS)}." in text


def test_help_includes_named_parts(command, plugin):
    _, out, _ = command("--import", plugin, "--model", "derpp", "--dataset", "seq-noise", "--help")
    assert "\nModel derpp:\n" in out
    assert "--alpha" in out
    assert "--buffer_size" in out
    assert "\nBackbone flat-net:\n" in out
    assert "--width" in out


# --- Complete runs ---------------------------------------------------------------------------


def test_run_writes_results(command, plugin, tmp_path):
    path = tmp_path / "new" / "results.json"
    code, out, err = command(
        *("--import", plugin, "--model", "er", *TINY, "--buffer_size", 10, "--lr", 0.5),
        *("--width", 3, "--results_path", path),
    )
    assert (code, err) == (0, "")
    assert (
        "er on seq-noise with flat-net (595 parameters) on cpu: lr 0.5, batch 8, 1 epoch per" in out
    )
    assert f"results: {path}" in out
    assert "forgetting (Class-IL):" in out
    content = json.loads(path.read_text())
    assert set(content) >= {
        "schema",
        "config",
        "summary",
        "class_il",
        "task_il",
        "loss",
        "train_s",
        "eval_s",
        "train_images",
        "notes",
        "interrupted",
        "versions",
        "hardware",
    }
    assert content["schema"] == 1
    config = content["config"]
    assert (config["model"], config["dataset"], config["backbone"]) == (
        "er",
        "seq-noise",
        "flat-net",
    )
    assert (config["width"], config["lr"], config["minibatch_size"]) == (3, 0.5, 8)
    assert [len(row) for row in content["class_il"]] == [1, 2]
    assert content["train_images"] == [20, 20]
    assert all(isinstance(v, (float, int, type(None))) for v in content["summary"].values())
    assert content["notes"]["compile"] is False


def test_command_line_and_python_give_the_same_results(command, plugin, tmp_path):
    path = tmp_path / "results.json"
    command("--import", plugin, "--model", "sgd", *TINY, "--results_path", path)
    args = {"n_epochs": 1, "batch_size": 8, "compile": "off", "seed": 0}
    results = train(*load_runner("sgd", "seq_noise", args))
    content = json.loads(path.read_text())
    assert content["loss"] == results.loss
    assert content["class_il"] == results.class_il


def test_checkpoint_and_resume(command, plugin, tmp_path):
    run = ("--import", plugin, "--model", "sgd", *TINY)
    whole, part = tmp_path / "whole.json", tmp_path / "part.json"
    command(*run, "--results_path", whole, "--savecheck", "task", "--checkpoint_path", tmp_path)
    checkpoint = tmp_path / "sgd_seq-noise_flat-net_seed0_task1.pt"
    code, out, _ = command(*run, "--results_path", part, "--loadcheck", checkpoint)
    assert code == 0
    assert f"checkpoint: {checkpoint} loaded, 1 tasks done" in out
    one, other = (json.loads(path.read_text()) for path in (whole, part))
    for key in ("class_il", "task_il", "loss", "train_images"):
        assert one[key] == other[key]


def test_data_dir_sets_base_path(command, plugin, tmp_path):
    command("--import", plugin, "--model", "sgd", *TINY, "--data_dir", tmp_path / "mine")
    assert base_path() == f"{tmp_path}/mine/"


def test_export_at_the_end(command, plugin, tmp_path):
    target = tmp_path / "bundle"
    code, out, err = command("--import", plugin, "--model", "sgd", *TINY, "--export", target)
    assert (code, err) == (0, "")
    assert str(target) in out
    bundle = load_bundle(target)
    assert bundle.classes_seen == (0, 1, 2, 3)
    assert bundle(torch.rand(2, 3, 8, 8), returnt="features").shape == (2, 4)


def test_export_after_each_task(command, plugin, tmp_path):
    words = ("--import", plugin, "--model", "sgd", *TINY)
    _, plain, _ = command(*words)
    target = tmp_path / "bundle"
    each = ("--export", target, "--formats", "onnx,safetensors", "--export_each_task", "1")
    code, out, err = command(*words, *each, "--export_variants", "fp16")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("bundle after task")]
    assert [line.split()[4] for line in lines] == ["exported", "updated"]
    assert "4 models, 2 of 4 classes seen" in lines[0]
    assert "4 models, 4 of 4 classes seen" in lines[1]
    # Exporting changes nothing in the training.
    accuracy = [line for line in plain.splitlines() if line.startswith("Accuracy after")]
    assert accuracy == [line for line in out.splitlines() if line.startswith("Accuracy after")]
    manifest = read_manifest(target)
    assert manifest.name == "flat-net"
    assert manifest.info.tasks_seen == 2
    assert 0 <= manifest.file("model.onnx").accuracy["class_il"] <= 1
    assert manifest.file("model.fp16.onnx").precision == "fp16"


def test_int8_calibration_uses_training_images_of_seen_classes(
    command, plugin, tmp_path, monkeypatch
):
    def export(model, path, calibration, test_set, variants, **_):
        assert variants == ("int8",)
        before = torch.get_rng_state()
        found.append(len(calibration()))
        assert torch.equal(torch.get_rng_state(), before)
        images, labels = test_set()
        found.append((len(images), sorted(set(labels.tolist()))))
        raise ExportError("seen enough")

    found = []
    monkeypatch.setattr("mammoth_compiled.observers.bundle.export_bundle", export)
    words = ("--import", plugin, "--model", "sgd", *TINY, "--export", tmp_path / "bundle")
    command(*words, "--export_variants", "int8", "--export_each_task", 1)
    # After each task, and at the end because the export after the last task failed.
    second = [40, (20, [0, 1, 2, 3])]
    assert found == [20, (10, [0, 1]), *second, *second]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--export_each_task", "1"), "--export_each_task needs --export"),
        (("--formats", "onnx"), "--formats needs --export"),
        (("--export", "bundle", "--formats", "onxx"), "unknown format 'onxx'"),
        (("--export", "bundle", "--export_variants", "int9"), "unknown variant 'int9'; valid:"),
    ],
)
def test_export_arguments_that_contradict(error_of, plugin, words, message):
    error_of("--import", plugin, "--model", "sgd", *TINY, *words, message=message)


def test_interrupt_keeps_partial_results(command, plugin, tmp_path, monkeypatch):
    monkeypatch.setattr(SGD, "end_task", lambda self, dataset: interrupt(dataset))

    def interrupt(dataset):
        if dataset.c_task == 1:
            raise KeyboardInterrupt

    path = tmp_path / "results.json"
    code, out, err = command("--import", plugin, "--model", "sgd", *TINY, "--results_path", path)
    assert (code, err) == (130, "")
    assert "Training interrupted" in out
    content = json.loads(path.read_text())
    assert content["interrupted"] is True
    assert len(content["class_il"]) == 1


def test_explain_does_not_train(command, plugin):
    code, out, err = command("--import", plugin, "--model", "sgd", *TINY, "--explain")
    assert (code, err) == (0, "")
    assert "FlatNet on cpu, images (8, 3, 8, 8)" in out
    assert out.count("1 graph(s) of") == 3
    assert "Accuracy" not in out


def test_explain_writes_a_page(command, error_of, plugin, tmp_path):
    path = tmp_path / "explain.html"
    words = ("--import", plugin, "--model", "sgd", *TINY)
    code, out, err = command(*words, "--explain", "--html", path)
    assert (code, err) == (0, "")
    assert f"explanation: {path}" in out
    assert "How FlatNet is compiled" in path.read_text()
    error_of(*words, "--html", path, message="--html needs --explain")


def test_run_as_a_module(run_python, plugin):
    result = run_python(
        *("-m", "mammoth_compiled.run", "--import", plugin, "--model", "sgd", *TINY)
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "Accuracy after task 2" in result.stdout


def test_error_as_a_module(run_python):
    result = run_python(
        "-m", "mammoth_compiled.run", "--model", "sgd", "--dataset", "seq-fmnist-mni"
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: unknown dataset 'seq-fmnist-mni'. Did you mean 'seq-f")
    assert result.stderr.count("\n") == 1


# --- Errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), f"--model is required; valid: {', '.join(sorted(models))}"),
        (("--model", "sgd"), "--dataset is required; valid: "),
        (("--model", "sdg", *TINY), "unknown model 'sdg'. Did you mean 'sgd'?"),
        (("--model", "sgd", "--dataset", "cifar"), "unknown dataset 'cifar'. Did you mean"),
        (
            ("--model", "sgd", *TINY, "--backbone", "resnet"),
            "unknown backbone 'resnet'. Did you mean",
        ),
        (
            ("--model", "sgd", *TINY, "--batchsize", 3),
            "unknown argument '--batchsize'. Did you mean",
        ),
        (
            ("--model", "sgd", *TINY, "--alpha=3"),
            "unknown argument '--alpha'. Other models have it: der, ",
        ),
        (("--model", "sgd", *TINY, "--distributed", "ddp"), "start the run with torchrun"),
        (
            ("--model", "sgd", *TINY, "--config", "no.yaml"),
            "--config no.yaml: cannot read no.yaml: No such file",
        ),
        (("--model", "sgd", *TINY, "stray"), "unknown argument 'stray'"),
        (
            ("--model", "sgd", "--dataset", "seq-noise", "--batch_size", 0),
            "--batch_size: must be an integer >= 1, got '0'",
        ),
        (
            ("--model", "sgd", *TINY, "--batch_size", 4),
            "argument --batch_size is given 2 times: give it once",
        ),
        (("--model", "sgd", *TINY, "--lr", -1), "--lr: must be a number > 0, got '-1'"),
        (("--model", "sgd", *TINY, "--lr"), "argument --lr: expected one argument"),
        (("--model",), "argument --model: expected one argument"),
        (
            ("--model", "sgd", *TINY, "--optimizer", "lion"),
            "argument --optimizer: invalid choice: 'lion'",
        ),
        (("--model", "sgd", *TINY, "--device", "tpu"), "device 'tpu' is not available; valid: cpu"),
        (("--model", "er", *TINY), "--buffer_size is required for model 'er' on 'seq-noise'"),
        (
            ("--model", "er", *TINY, "--buffer_size", 4, "--minibatch_size", 5),
            "--minibatch_size 5 exceeds",
        ),
        (("--model", "sgd", *TINY, "--optim_nesterov", 1), "--optim_nesterov 1 needs"),
        (("--model", "sgd", *TINY, "--backbone", "needs-depth"), "--depth is required"),
        (
            ("--model", "sgd", *TINY, "--backbone", "needs-depth", "--depth", "x"),
            "must be an integer, got 'x'",
        ),
        (
            ("--model", "sgd", *TINY, "--backbone", "flat-net", "--width", -3),
            "backbone 'flat-net' (plugin.flat_net) could not be built with {'width': -3",
        ),
        (("--model", "sgd", "--model", "er", *TINY), "argument --model is given 2 times"),
        (("--model", "sgd", "--dataset", "seq-noise", "--seed", 2**63), "--seed: must be at most"),
        (("--model", "sgd", *TINY, "--backbone", "liar"), "returnt='both' must be the tuple"),
        (("--model", "sgd", *TINY, "--backbone", "five-classes"), "must have shape [B, 4]"),
        (("--model", "sgd", *TINY, "--loadcheck", "nowhere.pt"), "no checkpoint at nowhere.pt"),
        (("--model", "sgd", *TINY, "--amp", "fp16", "--device", "cpu"), "--amp fp16 needs a GPU"),
    ],
)
def test_invalid_arguments(error_of, plugin, words, message):
    error_of("--import", plugin, *words, message=message)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.py", "--import nowhere.py: FileNotFoundError: no file nowhere.py"),
        ("no.such.module", "--import no.such.module: ModuleNotFoundError"),
    ],
)
def test_import_of_missing_files_and_modules(error_of, spec, message):
    error_of("--import", spec, "--list", message=message)


@pytest.mark.parametrize(
    "text", ["import nothing_of_this_name", "1 +", "raise RuntimeError('mine')"]
)
def test_import_of_a_file_that_fails(error_of, tmp_path, text):
    path = tmp_path / "broken.py"
    path.write_text(text)
    error_of("--import", path, "--list", message=f"--import {path}: ")
    assert "broken" not in sys.modules


def test_diverging_training(error_of, plugin):
    words = (
        "--import",
        plugin,
        "--model",
        "sgd",
        *TINY,
        "--lr",
        "1e30",
        "--results_path",
        "r.json",
    )
    message = "the loss became"
    error = error_of(*words, message=message)
    assert "in task 1, epoch 1, step" in error
    assert "(lr 1e+30): try a smaller --lr" in error


@pytest.mark.parametrize("damage", ["truncated", "foreign", "code"])
def test_invalid_checkpoints(error_of, plugin, tmp_path, damage):
    path = tmp_path / "check.pt"
    if damage == "code":
        torch.save(torch.nn.Linear(2, 2), path)
    else:
        torch.save({"weights": torch.zeros(100)}, path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    message = {
        "truncated": "is truncated or not a checkpoint",
        "foreign": "is not a checkpoint of mammoth_compiled",
        "code": "contains pickled code, which is not run",
    }[damage]
    error_of("--import", plugin, "--model", "sgd", *TINY, "--loadcheck", path, message=message)


def test_checkpoint_of_another_backbone_width(error_of, command, plugin, tmp_path):
    run = ("--import", plugin, "--model", "sgd", *TINY)
    command(*run, "--savecheck", "last", "--checkpoint_path", tmp_path)
    path = tmp_path / "sgd_seq-noise_flat-net_seed0_task2.pt"
    error_of(*run, "--width", 9, "--loadcheck", path, message="does not fit backbone 'flat-net'")


def test_missing_data(error_of, monkeypatch, tmp_path):
    words = ("--model", "sgd", "--dataset", "seq-mnist", "--compile", "off", "--data_dir", tmp_path)
    error = error_of(*words, message="seq-mnist: the data is not in")
    assert "give --data_dir DIR" in error


def test_results_path_that_cannot_be_written(error_of, plugin, tmp_path):
    words = ("--import", plugin, "--model", "sgd", *TINY)
    error_of(*words, "--results_path", tmp_path, message="it is a directory; give a file in it")
    (tmp_path / "file").write_text("")
    error_of(
        *words,
        "--results_path",
        tmp_path / "file" / "r.json",
        message="is not a writable directory",
    )


def test_checkpoint_path_that_cannot_be_written(error_of, plugin, tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    words = ("--import", plugin, "--model", "sgd", *TINY, "--savecheck", "last")
    error_of(*words, "--checkpoint_path", path / "x", message=f"{path} is not a writable directory")


def test_export_directory_with_other_files(error_of, plugin, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    error_of("--import", plugin, "--model", "sgd", *TINY, "--export", target, message=str(target))
    assert os.listdir(target) == ["thesis.tex"]


def test_failed_export_keeps_the_weights(command, plugin, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ExportError("out differs by 3")

    monkeypatch.setattr("mammoth_compiled.observers.bundle.export_bundle", fail)
    target = tmp_path / "bundle"
    code, _, err = command("--import", plugin, "--model", "sgd", *TINY, "--export", target)
    assert code == 2
    kept = tmp_path / "data" / "checkpoints" / "sgd_seq-noise_flat-net_seed0_task2.pt"
    assert err == (
        f"error: out differs by 3. The weights are saved in {kept}; once the cause is fixed: "
        f"python -m mammoth_compiled.export {kept} {target}\n"
    )
    assert read_checkpoint(kept)["tasks_done"] == 2
    assert not target.exists()
