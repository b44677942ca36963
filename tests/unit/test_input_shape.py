"""Backbone parameters that are taken from the dataset's images unless given."""

import inspect
from typing import Annotated

import pytest
import torch
from torch import nn

from mammoth_compiled import (
    MammothBackbone,
    get_avail_args,
    load_runner,
    register_backbone,
    register_dataset,
)
from mammoth_compiled.backbones.base import select_return
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import backbones, datasets
from mammoth_compiled.signatures import InputShape

# Narrow versions of the built-in backbones: only the shapes are tested.
NARROW = {"num_filters": 4, "num_channels": 4, "hidden_size": 8}


# Without the one that reads its shape from a user's files.
@pytest.mark.parametrize("dataset", [name for name in datasets if name != "seq-folder"])
@pytest.mark.parametrize("backbone", list(backbones))
def test_every_backbone_fits_every_dataset(backbone, dataset):
    names = {parameter.name for parameter in backbones[backbone].parameters}
    narrow = {name: value for name, value in NARROW.items() if name in names}
    try:
        args = {"backbone": backbone, "device": "cpu"} | narrow
        model, source = load_runner("sgd", dataset, args)
    except ConfigError as error:
        assert backbone == "attention-cnn"
        assert "images may have at most 64x64 pixels, got" in str(error)  # noqa: PT017
        return
    images = torch.rand(2, *source.input_shape())
    assert model.net.eval()(images).shape == (2, source.N_CLASSES)


def test_filled_values_are_in_args():
    model, _ = load_runner("sgd", "seq-mnist", {"backbone": "cnn"})
    assert (model.args.input_size, model.args.in_channels) == (28, 1)
    model, _ = load_runner("sgd", "seq-cifar10", {"backbone": "mnistmlp"})
    assert model.args.input_size == 3 * 32 * 32


class PoolNet(MammothBackbone):
    """Accepts images of any size and number of channels."""

    def __init__(self, num_classes):
        super().__init__()
        self.classifier = nn.Linear(1, num_classes)

    def forward(self, x, returnt="out"):
        features = x.mean((1, 2, 3))[:, None]
        return select_return(self.classifier(features), features, returnt)


@pytest.fixture
def build(tiny):
    """Returns a function that builds a backbone and returns the arguments it was called with."""

    def run(function, dataset="seq-tiny", **args):
        received = {}

        def backbone(num_classes, **named):
            received.update(named)
            return PoolNet(num_classes)

        backbone.__signature__ = inspect.signature(function)
        register_backbone("shaped")(backbone)
        load_runner("sgd", dataset, {"backbone": "shaped", **args})
        return received

    return run


def test_defaults_are_replaced(build):
    def net(num_classes, in_channels: int = 1, input_size: int = 32): ...

    assert build(net) == {"in_channels": 3, "input_size": 8}


def test_given_values_are_kept(build):
    def net(num_classes, in_channels: int = 1, input_size: int = 32): ...

    assert build(net, in_channels=5, input_size=9) == {"in_channels": 5, "input_size": 9}


def test_required_parameters_are_filled(build):
    def net(num_classes, in_channels: int, input_size: list[int]): ...

    assert build(net) == {"in_channels": 3, "input_size": (8, 8)}
    _, optional = get_avail_args(backbone="shaped")
    assert "from the dataset's images" in optional["in_channels"]["description"]


def test_images_that_are_not_square(build, tiny):
    @register_dataset("seq-wide")
    class Wide(tiny.Dataset):
        SIZE = (8, 12)

    def pair(num_classes, input_size: tuple[int, int]): ...

    def number(num_classes, input_size: int): ...

    assert build(pair, "seq-wide") == {"input_size": (8, 12)}
    with pytest.raises(ConfigError, match=r"--input_size is required .* 'seq-wide' has 8x12 image"):
        build(number, "seq-wide")
    assert build(number, "seq-wide", input_size=8) == {"input_size": 8}


def test_annotation_names_the_meaning(build):
    def net(
        num_classes,
        features: Annotated[int, InputShape.FLAT],
        bands: Annotated[int, InputShape.CHANNELS] = 1,
    ): ...

    assert build(net) == {"features": 192, "bands": 3}


def test_flattened_default_is_recognized(build):
    def net(num_classes, input_size: int = 3 * 8 * 8): ...

    assert build(net) == {"input_size": 192}


def test_other_parameters_are_left_alone(build):
    def net(num_classes, num_channels: int = 32, size: int = 5): ...

    assert build(net) == {"num_channels": 32, "size": 5}


def test_dataset_parameters_are_left_alone(tiny):
    @register_dataset("seq-channels")
    class Channels(tiny.Dataset):
        def __init__(self, args, in_channels: int = 4):
            super().__init__(args)
            self.in_channels = in_channels

    assert load_runner("sgd", "seq-channels")[1].in_channels == 4


def test_dataset_without_size_leaves_defaults(build, tiny):
    @register_dataset("seq-unsized")
    class Unsized(tiny.Dataset):
        def input_shape(self):
            return None

    def optional(num_classes, in_channels: int = 7, input_size=None): ...

    def required(num_classes, in_channels: int): ...

    assert build(optional, "seq-unsized") == {"in_channels": 7, "input_size": None}
    with pytest.raises(ConfigError, match=r"--in_channels is required .*unsized' declares no SIZE"):
        build(required, "seq-unsized")
    assert build(required, "seq-unsized", in_channels=2) == {"in_channels": 2}
