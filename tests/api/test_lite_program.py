"""A program written for Mammoth Lite runs when its import is renamed."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from mammoth_compiled.models.core.state import model_state

PROGRAM = Path(__file__).resolve().parents[1] / "programs" / "lite_program.py"
METHODS = ["my-replay", "my-distillation", "my-exemplars"]
each_method = pytest.mark.parametrize("method", METHODS)


LITE = """Buffer ContinualDataset ContinualModel MammothBackbone MammothDataset ReturnTypes
add_rehearsal_args base_path get_avail_args get_backbone_names get_dataset_names get_device
get_model_names load_runner register_backbone register_dataset register_model train"""


@pytest.fixture
def program(monkeypatch):
    """Imports the program, which registers its names for this test."""
    spec = importlib.util.spec_from_file_location("lite_program", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    # As an import would do: Dynamo of torch 2.11 looks the module up.
    monkeypatch.setitem(sys.modules, "lite_program", module)
    spec.loader.exec_module(module)
    return module


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, dict):
            assert_same_state(value, other[key])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
            for a, b in zip(value, other[key], strict=True):
                assert_same_state(a, b)
        else:
            assert value == other[key], key


def test_program_uses_only_lite_names():
    source = PROGRAM.read_text()
    (names,) = re.findall(r"from mammoth_compiled import \((.*?)\)", source, re.DOTALL)
    assert names.replace(",", "").split() == LITE.split()
    assert source.count("mammoth_compiled") == 1


def test_program_runs_as_a_script(run_python):
    result = run_python(PROGRAM)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    for method in METHODS:
        assert f"{method}: StripesNet, 2,".replace(",", "") in result.stdout.replace(",", "")
    assert result.stdout.count("Accuracy after task 3") == 3
    assert "image by image" not in result.stdout  # its dataset is read from memory


@each_method
def test_methods_learn(program, method):
    _, _, results = program.run(method, seed=0, compile="off")
    assert len(results.class_il) == 3
    assert results.accuracy["task_il"] > 0.9
    # Plain fine-tuning would only know the two classes of the last task.
    if method != "my-distillation":
        assert results.accuracy["class_il"] > 0.9


def test_teacher_is_the_network_of_the_previous_task(program):
    model, _, _ = program.run("my-distillation", seed=0, compile="off")
    assert type(model.teacher) is type(model.net)
    assert model.tasks_learnt == 3
    assert torch.equal(model.teacher.get_params(), model.net.get_params())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert all(p.requires_grad for p in model.net.parameters())
    # The optimizer holds the network's parameters only.
    assert len(model.opt.param_groups[0]["params"]) == len(list(model.net.parameters()))


def test_exemplars_are_added_to_the_training_set(program):
    model, _, results = program.run("my-exemplars", seed=0, compile="off")
    assert model.images_per_task == [80, 80 + 2 * 8, 80 + 4 * 8]
    assert results.train_images == [6 * n for n in model.images_per_task]


@each_method
def test_resumed_run_equals_uninterrupted_run(program, method, tmp_path):
    args = {"seed": 0, "compile": "off", "checkpoint_path": str(tmp_path)}
    model, _, results = program.run(method, savecheck="task", **args)
    for done in (1, 2):
        path = tmp_path / f"{method}_seq-stripes_stripes-net_seed0_task{done}.pt"
        resumed, _, resumed_results = program.run(
            method, loadcheck=str(path), **{**args, "seed": 4}
        )
        assert torch.equal(resumed.net.get_params(), model.net.get_params())
        assert_same_state(model_state(resumed), model_state(model))
        assert resumed_results.class_il == results.class_il
        assert resumed_results.loss == results.loss


@each_method
def test_compiled_run_equals_eager_run(program, method, graph_counter):
    eager, _, eager_results = program.run(method, seed=0, compile="off")
    assert graph_counter.frame_count == 0
    compiled, _, results = program.run(method, seed=0, compile="on")
    assert graph_counter.frame_count > 0
    assert torch.equal(compiled.net.get_params(), eager.net.get_params())
    assert results.class_il == eager_results.class_il


def test_teacher_and_features_run_compiled(program, graph_counter, monkeypatch):
    captured = []
    run = torch.compile

    def watch(function, **kwargs):
        captured.append(function.__code__.co_name)
        return run(function, **kwargs)

    monkeypatch.setattr(torch, "compile", watch)
    program.run("my-distillation", seed=0, compile="on")
    # `both` for training, `out` for evaluation, and `out` once per teacher.
    assert captured.count("StripesNet_both") == 1
    assert captured.count("StripesNet_out") >= 2
