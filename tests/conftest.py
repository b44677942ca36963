"""Fixtures of all tests: seed, folder for files, clean registries, a small dataset and backbone.

The dataset: color images of 8x8 pixels, each a pattern of its class plus noise, which a few steps
can learn. Three tasks of two classes, 36 training images per task: with batches of 8 the last batch
of an epoch is ragged.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hardware import HAS_GPU  # also decides whether Triton's kernels are interpreted
from hypothesis import settings
from PIL import Image
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch._functorch.compilers import nop
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.nn import functional as F
from torchvision import transforms

from mammoth_compiled import ContinualDataset, MammothBackbone, MammothDataset, load_runner, train
from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.compat import compile_function
from mammoth_compiled.compiler.host_randomness import check_host_randomness
from mammoth_compiled.compiler.mutated_buffers import save_mutated_inputs
from mammoth_compiled.registry import backbones, datasets, models
from mammoth_compiled.types import ReturnTypes

# What tests compile is not noted in the user's cache.
os.environ["MAMMOTH_CACHE_DIR"] = tempfile.mkdtemp(prefix="mammoth-tests-")
# Shells start background jobs with Ctrl-C ignored; tests send signals to themselves and others.
for number, handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGTERM, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
# One thread: tests share a small machine, and sums then do not depend on its number of cores.
torch.set_num_threads(1)
# The same examples in every run: a gate must not fail by chance.
settings.register_profile("suite", derandomize=True, deadline=None)
settings.load_profile("suite")
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items):
    if HAS_GPU:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no supported CUDA device"))


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """Seeds the generators, sends files to a temporary folder, keeps tests off the network."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    monkeypatch.setenv("MAMMOTH_BASE_PATH", str(tmp_path / "data"))
    monkeypatch.setenv("MAMMOTH_RUNS", "off")
    connect = socket.socket.connect

    def local_only(self, address):
        if self.family != socket.AF_UNIX:
            raise OSError("tests have no network")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(autouse=True)
def _runs_on_cpu(request, monkeypatch):
    """Lets runs use the CPU unless they name a device, also on a machine with a GPU.

    What a GPU does differently is the subject of the tests marked `gpu`.
    """
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr("mammoth_compiled.device.default_device", lambda: torch.device("cpu"))


@pytest.fixture(autouse=True)
def _registries():
    """Undoes what a test registers."""
    with models.restored(), datasets.restored(), backbones.restored():
        yield


def patterned_images(per_class, size=8, channels=3, num_classes=6, seed=0):
    """Returns images, uint8 [N, size, size, channels], and class ids [N], in mixed order."""
    # One generator for the patterns, so that training and test images show the same.
    patterns = np.random.default_rng(99).integers(0, 256, (num_classes, size, size, channels))
    noise = np.random.default_rng(seed)
    targets = noise.permutation(np.repeat(np.arange(num_classes), per_class))
    data = patterns[targets] + noise.integers(-40, 41, (len(targets), size, size, channels))
    return data.clip(0, 255).astype(np.uint8), targets.astype(np.int64)


class PatternImages(MammothDataset):
    """One split in Mammoth's style: PIL images and a transform of one image."""

    def __init__(self, data, targets, transform):
        self.data = data
        self.targets = targets
        self.transform = transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image = Image.fromarray(self.data[index])
        return self.transform(image), int(self.targets[index]), self.not_aug_transform(image)


class Tiny(ContinualDataset):
    """Patterns in three tasks of two classes, without augmentation."""

    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 3
    SIZE = (8, 8)
    MEAN = (0.5, 0.5, 0.5)
    STD = (0.25, 0.25, 0.25)
    TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    TEST_TRANSFORM = TRANSFORM

    def get_data_loaders(self):
        return (
            PatternImages(*patterned_images(18, seed=1), self.TRANSFORM),
            PatternImages(*patterned_images(5, seed=2), self.TEST_TRANSFORM),
        )

    @staticmethod
    def get_backbone():
        return "tiny-net"


class TinyAugmented(Tiny):
    """The same with random crop and flip."""

    TRANSFORM = transforms.Compose(
        [
            transforms.RandomCrop(8, padding=1),
            transforms.RandomHorizontalFlip(),
            *Tiny.TRANSFORM.transforms,
        ]
    )


class TinyNet(MammothBackbone):
    """A convolution, batch norm, dropout and a head: every kind of state that a step changes."""

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.1)
        self.classifier = nn.Linear(width * 16, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)
        if returnt == "features":
            return features
        logits = self.classifier(self.drop(features))
        if returnt == "out":
            return logits
        if returnt == "both":
            return logits, features
        raise ValueError(f"unknown returnt {returnt!r}; valid: out, features, both")


@pytest.fixture
def tiny():
    """Registers the datasets seq-tiny and seq-tiny-augmented and the backbone tiny-net."""
    datasets.register("seq-tiny")(Tiny)
    datasets.register("seq-tiny-augmented")(TinyAugmented)
    backbones.register("tiny-net")(TinyNet)
    return SimpleNamespace(
        Dataset=Tiny,
        AugmentedDataset=TinyAugmented,
        Split=PatternImages,
        Net=TinyNet,
        images=patterned_images,
    )


@pytest.fixture
def run_tiny(tiny):
    """Returns a function that trains on the tiny dataset: (model, dataset, results)."""

    def run(model="sgd", dataset="seq-tiny", observers=(), **args):
        args = {"seed": 0, "batch_size": 8, "n_epochs": 1, "compile": "off", **args}
        runner = load_runner(model, dataset, args)
        return *runner, train(*runner, observers=observers)

    return run


@pytest.fixture
def example_args():
    """Returns a function of a model's name: small values of the arguments it requires."""
    return lambda name: dict(models[name].target.EXAMPLE_ARGS)


@pytest.fixture
def graph_counter(monkeypatch):
    """Lets nets be captured by Dynamo and counted (`frame_count`), but not compiled by Inductor."""
    counter = CompileCounter()

    def capture(function, *, backend, dynamic):
        assert backend == "mammoth"
        return torch.compile(function, backend=counter, dynamic=dynamic)

    torch._dynamo.reset()
    monkeypatch.setattr("mammoth_compiled.engine.forward.compile_function", capture)
    yield counter
    torch._dynamo.reset()


@pytest.fixture
def compiled_functions(monkeypatch):
    """Lets nets be compiled without Inductor, which takes longer; the names of those compiled.

    Graphs go through Dynamo and AOTAutograd with the joint graph pass of the real backend.
    """
    names = []

    def partition(joint, inputs, **kwargs):
        save_mutated_inputs(joint.graph)
        joint.recompile()
        return min_cut_rematerialization_partition(joint, inputs, **kwargs)

    def compile_forward(graph, inputs):
        counters.count_graph()
        return nop(graph, inputs)

    compile_graph = aot_autograd(
        fw_compiler=compile_forward,
        bw_compiler=nop,
        partition_fn=partition,
        keep_inference_input_mutations=True,
    )

    def backend(graph, inputs):
        check_host_randomness()
        return compile_graph(graph, inputs)

    def compile_aot(function, **_):
        names.append(function.__name__)
        return compile_function(function, backend=backend, dynamic=False)

    torch._dynamo.reset()
    monkeypatch.setattr("mammoth_compiled.engine.forward.compile_function", compile_aot)
    yield names
    torch._dynamo.reset()


@pytest.fixture
def run_python(tmp_path):
    """Returns a function that runs Python in a process of its own, outside the checkout."""

    def run(*words, cwd=tmp_path, **environment):
        return subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=1200,
        )

    return run
