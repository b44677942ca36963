"""Every model on every kind of dataset and family of backbones, eager and compiled.

Eager runs cover every combination. Compiled runs cover every pair of model and kind, and of model
and family; a ResNet takes long to capture, so it is compiled with one model, which is enough for
what the families differ in: modules of the network. Dynamo captures the graphs, and PyTorch runs
them, so that losses are those of the eager run to the bit. `test_graphs` has the same with ten
tasks for every model with one small network.

Epochs end in a ragged batch, and each test set in one after a full batch.
"""

import itertools
import math

import pytest

from mammoth_compiled import load_runner, train
from mammoth_compiled.registry import datasets, models

VIT = {"width": 12, "depth": 1, "patch_size": 4}
FAMILIES = {
    "mnistmlp": {"hidden_size": 4},
    "tiny-net": {},  # convolution, batch norm, dropout
    "vit-tiny": VIT,
    "reduced-resnet18": {"num_filters": 2},
}
KINDS = ("class-il", "domain-il", "general-continual")


def families(name):
    """Returns the backbones that a model runs with; some of the pretrained need a transformer."""
    own = models[name].target.EXAMPLE_ARGS.get("backbone")
    return [own] if own else list(FAMILIES)


def kinds(name):
    """Returns the kinds of datasets that a model runs on."""
    return [kind for kind in KINDS if kind in models[name].target.COMPATIBILITY]


MATRIX = [(n, k, f) for n in models for k, f in itertools.product(kinds(n), families(n))]
# Tasks and classes are those of class-IL: one family suffices.
MATRIX += [
    (name, "task-il", next(f for f in families(name) if f != "mnistmlp"))
    for name in models
    if "task-il" in models[name].target.COMPATIBILITY
]


def covering(name):
    """Returns pairs with every family and every kind; not the ResNet, which takes long."""
    compiled = [family for family in families(name) if family != "reduced-resnet18"]
    count = max(len(compiled), len(kinds(name)))
    return [(kinds(name)[i % len(kinds(name))], compiled[i % len(compiled)]) for i in range(count)]


@pytest.fixture
def run(tiny, example_args):
    """Returns a function that runs a model on two tasks of 22 images: results, graphs by task."""

    class Kind(tiny.Dataset):
        N_CLASSES_PER_TASK = 2
        N_TASKS = 2

        def get_data_loaders(self):
            return (
                tiny.Split(*tiny.images(11, num_classes=4, seed=1), self.TRANSFORM),
                tiny.Split(*tiny.images(70, num_classes=4, seed=2), self.TEST_TRANSFORM),
            )

    @datasets.register("kind-task-il")
    class TaskIncremental(Kind):
        SETTING = "task-il"

    @datasets.register("kind-domain-il")
    class Domains(Kind):
        SETTING = "domain-il"
        N_CLASSES_PER_TASK = 4

        def get_data_loaders(self):
            splits = super().get_data_loaders()
            for split in splits:
                split.data = 255 - split.data if self.c_task else split.data
            return splits

    @datasets.register("kind-general-continual")
    class Stream(Domains):
        SETTING = "general-continual"
        N_TASKS = 1

    datasets.register("kind-class-il")(Kind)

    def build(name, kind, family, compiled, count=lambda: 0):
        one_pass = kind == "general-continual" and models[name].target.TRAINS_ON_STREAM
        base = {"seed": 0, "batch_size": 8, "n_epochs": 1 if one_pass else 2, "lr": 0.03}
        own = {"backbone": family, **FAMILIES[family], **example_args(name)}
        args = {**base, **own, "compile": "on" if compiled else "off"}
        graphs = []
        results = train(
            *load_runner(name, f"kind-{kind}", args), after_task=lambda _: graphs.append(count())
        )
        return results, graphs

    return build


@pytest.mark.parametrize(("name", "kind", "family"), MATRIX)
def test_trains_eagerly(run, name, kind, family):
    results, _ = run(name, kind, family, compiled=False)
    assert all(math.isfinite(loss) for loss in results.loss)
    seen = results.class_il[-1]
    assert len(seen) == (1 if kind == "general-continual" else 2)
    assert all(0 <= accuracy <= 1 for accuracy in seen)


COMPILED = [(name, *pair) for name in models for pair in covering(name)]
COMPILED.append(("er", "class-il", "reduced-resnet18"))


def test_every_pair_is_compiled():
    assert {(n, k) for n, k, _ in COMPILED} == {(n, k) for n in models for k in kinds(n)}
    pairs = {(n, f) for n in models for f in families(n) if f != "reduced-resnet18"}
    assert {(n, f) for n, _, f in COMPILED} - {("er", "reduced-resnet18")} == pairs


@pytest.mark.parametrize(("name", "kind", "family"), COMPILED)
def test_compiled_runs_are_the_eager_ones(run, graph_counter, name, kind, family):
    eager, _ = run(name, kind, family, compiled=False)
    compiled, graphs = run(name, kind, family, True, lambda: graph_counter.frame_count)
    assert graphs[0] > 0
    assert graphs == graphs[:1] * len(graphs)
    assert compiled.loss == eager.loss
    assert compiled.class_il == eager.class_il
