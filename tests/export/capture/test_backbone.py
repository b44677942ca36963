"""The backbone is found in models and compiled modules, and copied uncompiled."""

import pytest
import torch
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle
from mammoth_compiled.export.capture.backbone import eager_copy, unwrap

SHAPE = (3, 8, 6)


IMAGES = torch.linspace(-2, 2, 5 * 3 * 8 * 6).reshape(5, *SHAPE)


class OutOnly(MammothBackbone):
    """Has a forward without `returnt`."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3 * 8 * 6, 4)

    def forward(self, x):
        return self.fc(x.flatten(1))


def test_unwrap_compiled_modules_and_models(small_net, small_info):
    class Dataset:
        def info(self):
            return small_info

    class Model(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net
            self.dataset = Dataset()

    compiled = torch.compile(small_net, backend="eager")
    assert unwrap(small_net) == (small_net, None)
    assert unwrap(compiled) == (small_net, None)
    assert unwrap(Model(small_net)) == (small_net, small_info)
    assert unwrap(torch.compile(Model(compiled), backend="eager")) == (small_net, small_info)
    with pytest.raises(ExportError, match="not Linear"):
        unwrap(nn.Linear(2, 2))
    with pytest.raises(ExportError, match="not NoneType"):
        unwrap(None)


def test_backbone_with_a_net_attribute_is_the_backbone(small_net):
    outer = OutOnly()
    outer.net = small_net
    assert unwrap(outer) == (outer, None)


def test_eager_copy_is_not_compiled(small_net):
    def fail(*args, **kwargs):
        raise AssertionError("ran compiled")

    class Runner:
        __call__ = fail

        def for_copy(self, net):
            return Runner()

    small_net.conv = torch.compile(small_net.conv, backend=fail)
    small_net.bn.compile(backend=fail)
    small_net.set_runner(Runner())
    clone = eager_copy(small_net)
    assert clone(IMAGES).shape == (5, 4)
    assert not any(module.training for module in clone.modules())
    assert not any("_orig_mod" in key for key in clone.state_dict())
    assert "_orig_mod" in small_net.conv._modules


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_other_than_float32_raise(small_net, dtype, tmp_path):
    with pytest.raises(ExportError, match=rf"'conv.weight' is {dtype}"):
        export_bundle(small_net.to(dtype), tmp_path / "b", input_shape=SHAPE)


def test_backbone_that_cannot_be_copied_raises(small_net, tmp_path):
    small_net.last = small_net(IMAGES)  # not a leaf of the autograd graph
    with pytest.raises(ExportError, match="SmallNet cannot be copied"):
        export_bundle(small_net, tmp_path / "b", input_shape=SHAPE)
