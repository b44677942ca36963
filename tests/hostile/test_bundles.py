"""Hostile bundles: loading, verifying and updating refuse them, or repair what is wrong.

`tests/runtime/test_hostile_bundles.py` compares the C++ runtime with the results.
"""

import time

import pytest
import torch
from hostile_bundles import BUNDLES, UNUSED, hostile_manifests, write
from torch import nn

from mammoth_compiled.backbones.base import MammothBackbone, select_return
from mammoth_compiled.errors import ExportError, MammothError
from mammoth_compiled.export import export_bundle, load_bundle, update_bundle, verify_bundle
from mammoth_compiled.export.bundle.manifest_reader import read_manifest
from mammoth_compiled.types import DatasetInfo, ReturnTypes

INFO = DatasetInfo(
    name="random",
    input_shape=(3, 4, 5),
    mean=(0.2, 0.3, 0.4),
    std=(0.5, 0.6, 0.7),
    num_classes=4,
    class_names=("a", "b", "c", "d"),
    tasks=((0, 2), (2, 4)),
    tasks_seen=1,
)


class Net(MammothBackbone):
    """Two layers, with more weights than a page of memory."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(60, 32)
        self.classifier = nn.Linear(32, 4)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = self.hidden(x.flatten(1)).relu()
        return select_return(self.classifier(features), features, returnt)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """(the network, its bundle)."""
    net = Net().eval()
    directory = tmp_path_factory.mktemp("good") / "bundle"
    return net, export_bundle(net, directory, info=INFO, formats="onnx,safetensors")


def test_manifests(good, tmp_path):
    started = time.process_time()
    wrong, count = [], 0
    path = tmp_path / "manifest.json"
    for what, text, valid in hostile_manifests((good[1] / "manifest.json").read_text()):
        path.write_bytes(text)
        count += 1
        try:
            read_manifest(tmp_path)
        except ExportError as error:
            if valid or "\n" in str(error) or len(str(error)) > 1000:
                wrong.append(f"{what}: {str(error)[:200]}")
        else:
            if not valid:
                wrong.append(f"{what}: accepted")
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong[:40])
    assert count > 1000
    assert time.process_time() - started < 300  # whatever else the machine does


def updates(bundle, net):
    """Returns whether a bundle can be updated; anything but a clear message is an error."""
    try:
        update_bundle(bundle, net)
    except MammothError:
        return False
    return True


@pytest.mark.parametrize("name", BUNDLES)
def test_bundle(good, tmp_path, name):
    net, path = good
    bundle = write(path, tmp_path, name)

    def check(call):
        with pytest.raises(ExportError) as caught:
            call()
        assert "\n" not in str(caught.value)

    if name in UNUSED:
        load_bundle(bundle)(torch.zeros(1, *INFO.input_shape))
    else:
        check(lambda: load_bundle(bundle)(torch.zeros(1, *INFO.input_shape)))
    check(lambda: verify_bundle(bundle))
    if updates(bundle, net):
        verify_bundle(bundle)
    assert {entry.name for entry in tmp_path.iterdir()} == {"bundle"}
