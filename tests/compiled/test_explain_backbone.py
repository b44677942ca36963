"""`--explain`: what became of the backbone, as text and as a page."""

import copy
import re

import pytest
import torch
from torch import nn

from mammoth_compiled import MammothBackbone, load_runner, register_backbone
from mammoth_compiled.engine.explain import explain_backbone
from mammoth_compiled.engine.explain_html import explanation_page


class Counting(MammothBackbone):
    """Keeps a Python number that changes in every call, so that every call is recompiled."""

    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 32, 3, padding=1)
        self.classifier = nn.Linear(32 * 16, num_classes)
        self.calls = 0

    def forward(self, x, returnt="out"):
        self.calls = self.calls + 1
        features = torch.max_pool2d(torch.relu(self.conv(x)), 2).flatten(1) + 0 * self.calls
        logits = self.classifier(features)
        return {"out": logits, "features": features, "both": (logits, features)}[returnt]


@pytest.fixture(autouse=True)
def clean_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def explanation_of(backbone, model="er"):
    args = {"backbone": backbone, "batch_size": 8, "device": "cpu"}
    if model != "sgd":
        args |= {"buffer_size": 8, "minibatch_size": 4}
    runner = load_runner(model, "seq-tiny", args)
    return runner[0], explain_backbone(*runner)


def test_calls_of_a_run_and_their_guards(tiny):
    model, explanation = explanation_of("tiny-net")
    assert list(explanation.entries) == ["out", "features", "both"]
    sizes = sorted(model.net_batch_sizes())
    names = [f"training, {size} images" for size in sizes]
    assert [call.call for call in explanation.calls] == [*names, "evaluation, 128 images"]
    assert explanation.calls[0].graphs == 1
    assert explanation.calls[0].guard == ""
    assert explanation.calls[-1].graphs == 1
    assert explanation.calls[-1].guard
    assert not any(call.repeated for call in explanation.calls)
    assert f"training, {sizes[0]} images: 1 new graph(s)" in str(explanation)


def test_recompilation_is_explained_by_its_guard(tiny):
    register_backbone("test-counting")(Counting)
    _, explanation = explanation_of("test-counting", "sgd")
    training = explanation.calls[0]
    assert training.repeated == 1
    assert "calls" in training.repeated_guard
    assert "The same call is recompiled, because this guard fails" in str(explanation)
    assert re.search(r"<code>[^<]*calls[^<]*</code>", explanation_page(explanation))


def test_the_model_stays_unchanged(tiny):
    model, dataset = load_runner("sgd", "seq-tiny", {"backbone": "tiny-net", "device": "cpu"})
    before, random = copy.deepcopy(model.net.state_dict()), torch.get_rng_state()
    explain_backbone(model, dataset)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.net.training


def test_page_lists_matches_effects_and_reasons(tiny):
    _, explanation = explanation_of("cnn", "sgd")
    page = explanation_page(explanation)
    assert page.startswith("<!doctype html>")
    assert "<h1>How CNN is compiled</h1>" in page
    for entry in explanation.entries.values():
        nodes = ", ".join(match.node for match in entry.matches if not match.reason)
        assert f"<code>{nodes}</code>" in page  # matches with the same outcome share a row
        assert all((match.reason or match.replacement) in page for match in entry.matches)
    assert "2 x conv-relu-pool" in page
    assert any(not m.reason for m in explanation.entries["out"].matches)
    assert "only the pooled result is written to memory" in page


def test_page_without_a_match(tiny):
    _, explanation = explanation_of("mnistmlp", "sgd")
    assert "No pattern matches" in explanation_page(explanation)
