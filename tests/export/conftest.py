"""Small networks and bundles that tests share, and helpers that change a bundle."""

import fcntl
import json
import os
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export import export_bundle
from mammoth_compiled.export.bundle.hashes import sha256
from mammoth_compiled.export.formats import FORMATS
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
    """Uses one thread: for small layers, starting more costs more time than it saves."""
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
def every_format(tmp_path_factory, small_info, reason_missing):
    """(the network in eval mode, the directory of its bundle of every format).

    All formats that can be written on this machine. The network is untrained: its biases are zeros
    and its scales are ones, which optimizers tend to drop. Compiling takes long, so all workers
    that run the tests share one bundle.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        net = SmallNet().eval()
        net.classifier.bias.zero_()
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    directory = folder / "every" / "bundle"
    directory.parent.mkdir(exist_ok=True)
    formats = [name for name in FORMATS if not reason_missing(name)]
    with (folder / "every.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            export_bundle(net, directory, info=small_info, formats=formats)
    return net, directory


@pytest.fixture
def every_format_copy(every_format, tmp_path):
    """A copy of the bundle of every format, which the test may change."""
    return shutil.copytree(every_format[1], tmp_path / "copy")


@pytest.fixture(scope="session")
def reason_missing():
    """Returns a function: why this machine cannot write a format, or an empty string."""

    def reason(name):
        try:
            FORMATS[name].check_installed()
        except ExportError as error:
            return str(error)
        return ""

    return reason


@pytest.fixture(scope="session")
def require_format(reason_missing):
    """Returns a function that skips the test if this machine cannot write a format."""

    def require(name):
        if reason := reason_missing(name):
            pytest.skip(reason)

    return require


@pytest.fixture(scope="session")
def edit_manifest():
    """Returns a function that changes the JSON of a bundle's manifest."""

    def edit(directory, change):
        content = json.loads((directory / "manifest.json").read_text())
        change(content)
        (directory / "manifest.json").write_text(json.dumps(content))

    return edit


@pytest.fixture(scope="session")
def rehash(edit_manifest):
    """Returns a function that updates size and hash of a changed file in the manifest."""

    def update(directory, name):
        path = directory / name

        def change(content):
            file = next(file for file in content["files"] if file["path"] == name)
            file |= {"sha256": sha256(path), "bytes": path.stat().st_size}

        edit_manifest(directory, change)

    return update
