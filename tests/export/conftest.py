"""Small bundles that tests share: of the default formats, and of every format."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.export import export_bundle
from mammoth_compiled.types import DatasetInfo, ReturnTypes

SHAPE = (3, 8, 6)


class SmallNet(MammothBackbone):
    """Convolution, batch norm and a head for images of 8 x 6 pixels."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.bn = nn.BatchNorm2d(5)
        self.classifier = nn.Linear(5, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = F.relu(self.bn(self.conv(x))).mean((2, 3))
        return select_return(self.classifier(features), features, returnt)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Keeps small layers from waiting for threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def small_info():
    return DatasetInfo(
        name="seq-colors",
        input_shape=SHAPE,
        mean=(0.5, 0.25, 0.125),
        std=(0.5, 0.25, 2.0),
        num_classes=4,
        class_names=("red", "green", "blue", "grün"),
        tasks=((0, 2), (2, 4)),
        tasks_seen=1,
    )


@pytest.fixture
def small_net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = SmallNet()
        net.bn.running_mean.uniform_(-1, 1)
        net.bn.running_var.uniform_(0.5, 2)
    return net


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory, small_info):
    """(the network in eval mode, the directory of its bundle)."""
    net = SmallNet().eval()
    return net, export_bundle(net, tmp_path_factory.mktemp("small") / "bundle", info=small_info)


@pytest.fixture(scope="session")
def every_format(tmp_path_factory, small_info):
    """(the network in eval mode, the directory of its bundle of every format).

    The network is fresh: biases are zeros and scales are ones, which optimizers like to drop.
    """
    from mammoth_compiled.export.formats import FORMATS

    net = SmallNet().eval()
    with torch.no_grad():
        net.classifier.bias.zero_()
    folder = tmp_path_factory.mktemp("every") / "bundle"
    return net, export_bundle(net, folder, info=small_info, formats=list(FORMATS))
