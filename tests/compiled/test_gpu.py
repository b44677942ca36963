"""Runs on a GPU: data, buffer and random state stay there, and results equal those of a CPU."""

import pytest
import torch
from torch import nn
from torchvision import transforms

from mammoth_compiled import MammothBackbone, register_backbone
from mammoth_compiled.data import TaskLoader
from mammoth_compiled.device import random_state, set_random_state

pytestmark = pytest.mark.gpu


def test_batches_equal_those_on_the_cpu(tiny):
    split = tiny.Split(*tiny.images(4), tiny.Dataset.TRANSFORM)
    on_cpu = TaskLoader(split, 5, shuffle=False, device=torch.device("cpu"))
    on_gpu = TaskLoader(split, 5, shuffle=False, device=torch.device("cuda"))
    assert on_gpu.fallback_reason is None
    for one, other in zip(on_cpu, on_gpu, strict=True):
        for a, b in zip(one, other, strict=True):
            assert b.device.type == "cuda"
            torch.testing.assert_close(b.cpu(), a)


def test_augmented_batches_stay_on_the_gpu(tiny):
    split = tiny.Split(*tiny.images(4), tiny.AugmentedDataset.TRANSFORM)
    inputs, labels, plain = next(iter(TaskLoader(split, 5, True, torch.device("cuda"))))
    assert {t.device.type for t in (inputs, labels, plain)} == {"cuda"}


def test_dataloader_fallback_yields_gpu_batches(tiny):
    slow = transforms.Compose([transforms.RandomPerspective(), transforms.ToTensor()])
    split = tiny.Split(*tiny.images(4), slow)
    inputs, *_ = next(iter(TaskLoader(split, 5, True, torch.device("cuda"), num_workers=0)))
    assert inputs.device.type == "cuda"


def test_random_state_includes_the_gpu(tiny):
    torch.rand(1, device="cuda")
    state = random_state()
    first = torch.rand(3, device="cuda").tolist()
    set_random_state(state)
    assert torch.rand(3, device="cuda").tolist() == first


@pytest.mark.parametrize("name", ["sgd", "er", "derpp"])
def test_run_keeps_everything_on_the_gpu(run_tiny, name):
    args = {"sgd": {}, "er": {"buffer_size": 20}}.get(
        name, {"buffer_size": 20, "alpha": 0.3, "beta": 0.5}
    )
    model, _, results = run_tiny(name, device="cuda", lr=0.05, n_epochs=4, **args)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    if name != "sgd":
        assert model.buffer.examples.device.type == "cuda"
    assert results.task_il[0][0] >= 0.9


CAPTURED = {
    "sgd": {},
    "er": {"buffer_size": 16},
    "derpp": {"buffer_size": 16, "alpha": 0.3, "beta": 0.5},
}


@pytest.mark.parametrize("name", CAPTURED)
@pytest.mark.parametrize("extra", [{}, {"optimizer": "adam"}, {"amp": "fp16"}, {"clip_grad": 0.5}])
def test_captured_steps_compute_the_same(run_tiny, name, extra):
    given = {"device": "cuda", "compile": "on", "n_epochs": 12, "lr": 0.01, **CAPTURED[name]}
    _, _, python = run_tiny(name, cuda_graph="off", **given, **extra)
    _, _, graphs = run_tiny(name, **given, **extra)
    assert python.notes["step"]["replayed"] == 0
    step = graphs.notes["step"]
    assert (step["reason"], step["host_syncs_per_step"]) == ("", 0)
    assert step["replayed"] > 0.5 * 12 * 4 * 3
    # Ten images of each task are tested.
    for one, other in zip(graphs.class_il, python.class_il, strict=True):
        assert one == pytest.approx(other, abs=0.1)


def test_schedule_reaches_captured_steps(run_tiny):
    rates = {"lr": 0.05, "lr_scheduler": "multistep", "lr_milestones": [6], "lr_gamma": 1e-6}
    given = {"device": "cuda", "compile": "on", "n_epochs": 12, **rates}
    model, _, graphs = run_tiny("sgd", **given)
    _, _, python = run_tiny("sgd", cuda_graph="off", **given)
    assert graphs.notes["step"]["replayed"] > 0
    assert model.opt.param_groups[0]["lr"] == 0.05
    assert graphs.loss == pytest.approx(python.loss, rel=1e-3)


@pytest.mark.parametrize("compile", ["on", "off"])
def test_forward_may_call_view_on_conv_output(run_tiny, compile):
    class Views(MammothBackbone):
        def __init__(self, num_classes):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.classifier = nn.Linear(8 * 64, num_classes)

        def forward(self, x, returnt="out"):
            features = self.conv(x).relu().view(x.shape[0], -1)
            out = self.classifier(features)
            return {"out": out, "features": features, "both": (out, features)}[returnt]

    register_backbone("views")(Views)
    given = {"device": "cuda", "compile": compile, "backbone": "views", "lr": 0.05}
    _, _, results = run_tiny("er", buffer_size=16, n_epochs=8, **given)
    assert results.notes["compile"] == (compile == "on")
