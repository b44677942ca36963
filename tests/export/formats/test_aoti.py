"""AOTInductor for a GPU: graphs are rewritten and moved, and weights stay replaceable."""

import copy
import json
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from mammoth_compiled.backbones import Contract
from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.compiler import autotune
from mammoth_compiled.compiler.patterns import apply_patterns
from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.program import Source
from mammoth_compiled.export.formats import FORMATS, aoti
from mammoth_compiled.kernels.attention import op
from mammoth_compiled.kernels.runtime import device as kernel_device
from mammoth_compiled.types import ReturnTypes


class EveryPattern(MammothBackbone):
    """Images of 16 x 16 pixels: convolution, relu, pool; then attention over 64 tokens."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2).flatten(2).transpose(1, 2)
        query, key, value = self.query(x), self.key(x), self.value(x)
        x = torch.softmax(query @ key.transpose(1, 2) * 8**-0.5, -1) @ value
        return self.classifier(x.mean(1))


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EveryPattern().eval()


def source_of(net, device="cpu"):
    contract = Contract((3, 16, 16), 3, None, (ReturnTypes.OUT,))
    return Source(NamedOutputs(copy.deepcopy(net), contract), {}, torch.device(device))


def pretend_device(graph, device):
    """Changes the device of all values that a graph records."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, FakeTensor):
            with value.fake_mode:
                node.meta["val"] = torch.empty_strided(
                    value.shape, value.stride(), dtype=value.dtype, device=device
                )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("winners", "names"),
    [
        (
            {"conv_relu_pool": "triton", "attention": "triton", "projections": "joint"},
            ["one Triton kernel", "one Triton kernel", "one product"],
        ),
        (
            {"conv_relu_pool": "relu_pool", "attention": "sdpa", "projections": "joint"},
            [
                "cuDNN and a Triton kernel for relu+pool",
                "torch's scaled_dot_product_attention",
                "one product",
            ],
        ),
    ],
)
def test_gpu_patterns_compile_and_keep_weights_replaceable(
    net, tmp_path, monkeypatch, require_format, winners, names
):
    """Rewrites the graph as for a GPU; on the CPU, operators run their reference."""
    require_format("aoti")
    rewritten = []

    def rewrite_for_gpu(*args):
        module = make_module(*args)
        pretend_device(module.graph, "cuda")
        rewritten.extend(match.replacement for match in apply_patterns(module.graph))
        pretend_device(module.graph, "cpu")
        module.recompile()
        return module

    make_module = aoti._module_to_compile
    monkeypatch.setattr(aoti, "_module_to_compile", rewrite_for_gpu)
    monkeypatch.setattr(kernel_device, "supports_triton", lambda device: device.type == "cuda")
    # Strict float32 has no kernel for attention.
    monkeypatch.setattr(op, "input_precision", lambda dtype, convolution: "tf32")
    monkeypatch.setattr(autotune, "fastest", lambda case, device, names: winners[case.op])
    source = source_of(net)
    (file,) = FORMATS["aoti"].write(source, tmp_path)
    assert rewritten == names

    path, weights = tmp_path / file.path, source.graph.state_dict()
    with ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(aoti._LOCATIONS))
        locations = json.loads(archive.read(name))
    assert [set(found) for found in locations.values()] == [set(weights)]

    other = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(-1.5)
    for current in (net, other):
        FORMATS["aoti"].replace_weights(path, source_of(current).graph.state_dict(), {})
        run = FORMATS["aoti"].open_model(path, file, ("out",), torch.device("cpu"))
        for batch in (1, 2, 5):
            images = torch.rand(batch, 3, 16, 16)
            with torch.no_grad():
                torch.testing.assert_close(
                    run(images)["out"], current(images), rtol=1e-4, atol=1e-5
                )


def test_moving_to_a_device_leaves_the_shared_program_unchanged(net):
    source = source_of(net, "meta")
    placeholders = {name: value + 1 for name, value in source.graph.state_dict().items()}
    before = source.program(("out",))
    module = aoti._module_to_compile(source, ("out",), placeholders)
    assert {value.device.type for value in module.state_dict().values()} == {"meta"}
    values = [node.meta["val"] for node in module.graph.nodes if "val" in node.meta]
    assert {v.device.type for v in values if isinstance(v, torch.Tensor)} == {"meta"}
    assert source.program(("out",)) is before
    for weights in (before.state_dict, source.graph.state_dict()):
        for name, value in net.state_dict().items():
            assert torch.equal(weights[f"net.{name}"], value)


def test_cpu_graphs_are_not_rewritten(net):
    source = source_of(net)
    placeholders = {name: value + 1 for name, value in source.graph.state_dict().items()}
    module = aoti._module_to_compile(source, ("out",), placeholders)
    assert str(module.graph) == str(source.program(("out",)).module().graph)
    for name, value in net.state_dict().items():
        assert torch.equal(module.state_dict()[f"net.{name}"], value + 1)
        assert torch.equal(source.graph.state_dict()[f"net.{name}"], value)


def test_exports_at_the_same_time_write_no_common_file(net, tmp_path, monkeypatch, require_format):
    require_format("aoti")
    folders = []

    def compile_nothing(*_, options):
        folder = Path(options["aot_inductor.output_path"])
        folders.append(folder)
        if len(folders) == 1:  # meanwhile another process exports the same network
            with pytest.raises(ExportError, match="stop"):
                FORMATS["aoti"].write(source_of(net), tmp_path)
            assert folder.is_dir()
        raise RuntimeError("stop")

    monkeypatch.setattr(torch._inductor, "aot_compile", compile_nothing)
    with pytest.raises(ExportError, match="stop"):
        FORMATS["aoti"].write(source_of(net), tmp_path)
    mine, other = folders
    assert mine != other
    assert not mine.exists()
    assert not other.exists()
