"""Backbones that write buffers in forward train the same compiled and eagerly.

The runs have a ragged last batch, replay batches of another size than the stream's, and a first
step with an empty buffer: the steps in which eager and compiled calls could meet. Graphs go through
AOTAutograd, which turns buffer updates into copies, but not through Inductor, which takes longer.
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled import (
    ContinualModel,
    MammothBackbone,
    get_avail_args,
    load_runner,
    register_backbone,
    register_model,
    train,
)
from mammoth_compiled.backbones.vit import VisionTransformer
from mammoth_compiled.registry import models
from mammoth_compiled.types import ReturnTypes


class RunningMax(nn.Module):
    """Scales by a running maximum, which it updates in place."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("maximum", torch.ones(width))

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.maximum.mul_(0.9).add_(x.detach().abs().amax((0, 2, 3)), alpha=0.1)
        return x / self.maximum.clone()[:, None, None]


def spectral(width):
    return nn.utils.parametrizations.spectral_norm(nn.Conv2d(width, width, 3, padding=1))


NORMS = {
    "batch-norm": nn.BatchNorm2d,
    "batch-norm-cumulative": lambda width: nn.BatchNorm2d(width, momentum=None),
    "group-norm": lambda width: nn.GroupNorm(2, width),
    "instance-norm": lambda width: nn.InstanceNorm2d(width, affine=True, track_running_stats=True),
    "spectral-norm": spectral,
    "running-max": RunningMax,
}


@pytest.fixture(params=NORMS)
def stateful_backbone(request):
    """Registers a small backbone with one of the modules above, and returns its name."""

    @register_backbone("stateful-net")
    class StatefulNet(MammothBackbone):
        def __init__(self, num_classes, width=4):
            super().__init__()
            self.conv = nn.Conv2d(3, width, 3, padding=1)
            self.norm = NORMS[request.param](width)
            self.classifier = nn.Linear(width * 16, num_classes)

        def forward(self, x, returnt=ReturnTypes.OUT):
            x = F.relu(self.norm(self.conv(x)))
            features = F.max_pool2d(x, 2).flatten(1)
            logits = self.classifier(features)
            return {"out": logits, "features": features, "both": (logits, features)}[returnt]

    return "stateful-net"


@pytest.fixture
def stateful_transformer():
    """Registers a small vision transformer with all of the modules above before its patches."""

    @register_backbone("stateful-vit")
    class StatefulTransformer(VisionTransformer):
        def __init__(self, num_classes):
            super().__init__(num_classes, 24, 2, 3, 4, (8, 8), in_channels=4)
            self.stem = nn.Conv2d(3, 4, 1)
            self.norms = nn.Sequential(*(make(4) for make in NORMS.values()))

        def embed(self, x):
            return super().embed(self.norms(self.stem(x)))

    return "stateful-vit"


def assert_compiled_equals_eager(compiled_functions, name, **args):
    defaults = {"seed": 0, "batch_size": 8, "n_epochs": 2, "lr": 0.02, "device": "cpu"}
    runs = []
    for switch in ("on", "off"):
        model, dataset = load_runner(name, "seq-tiny", {**defaults, **args, "compile": switch})
        runs.append((model.net, train(model, dataset)))
    (compiled, results), (eager, eager_results) = runs
    assert compiled_functions
    assert results.notes["compile"] is True  # no fallback to eager mode
    assert results.class_il == eager_results.class_il
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


# Some need a transformer.
ON_TRANSFORMERS = [name for name in models if "backbone" in models[name].target.EXAMPLE_ARGS]


@pytest.mark.parametrize("name", [name for name in models if name not in ON_TRANSFORMERS])
def test_built_in_models(tiny, compiled_functions, example_args, stateful_backbone, name):
    args = example_args(name)
    if "minibatch_size" in get_avail_args(model=name)[1]:
        args["minibatch_size"] = 6
    assert_compiled_equals_eager(compiled_functions, name, backbone=stateful_backbone, **args)


def transformer_args(args, backbone):
    """Arguments of a model of transformers, without those of its example backbone."""
    shape = ("width", "depth", "num_heads", "patch_size")
    return {k: v for k, v in args.items() if k not in shape} | {"backbone": backbone, "n_epochs": 1}


@pytest.mark.parametrize("name", ON_TRANSFORMERS)
def test_models_of_transformers(run_tiny, example_args, stateful_transformer, name):
    args = transformer_args(example_args(name), stateful_transformer)
    _, _, results = run_tiny(name, **{"lr": 0.02, **args})
    assert all(math.isfinite(loss) for loss in results.loss)
    assert [len(row) for row in results.class_il] == [1, 2, 3]


# Most freeze the transformer, so that no step saves what its modules update: one stands for all.
def test_compiled_model_of_transformers(
    tiny, compiled_functions, example_args, stateful_transformer
):
    args = transformer_args(example_args("l2p"), stateful_transformer)
    assert_compiled_equals_eager(compiled_functions, "l2p", **args)


@pytest.fixture
def two_views(tiny):
    """A model whose observe makes a call with gradients and one without."""

    @register_model("two-views")
    class TwoViews(ContinualModel):
        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            self.opt.zero_grad()
            logits = self.net(inputs)
            with torch.no_grad():
                target = self.net(inputs.flip(-1))
            loss = self.loss(logits, labels) + 0.1 * F.mse_loss(logits, target)
            loss.backward()
            self.opt.step()
            return loss.item()

    return "two-views"


def test_own_observe(compiled_functions, two_views, stateful_backbone):
    assert_compiled_equals_eager(compiled_functions, two_views, backbone=stateful_backbone)


@pytest.mark.filterwarnings("ignore:Bypass. a call of forward is not compiled:UserWarning")
def test_eager_call_before_a_compiled_one(tiny, compiled_functions, stateful_backbone):
    # `net.forward` bypasses compilation, so eager and compiled calls meet in every step.
    @register_model("bypass")
    class Bypass(ContinualModel):
        def training_loss(self, batch):
            first = self.loss(self.net.forward(batch.inputs), batch.labels)
            return first + self.loss(self.net(batch.inputs.flip(-1)), batch.labels)

    assert_compiled_equals_eager(compiled_functions, "bypass", backbone=stateful_backbone)
