"""User code in the wild trains the same compiled and eagerly, or falls back with one message."""

import random
import warnings

import numpy as np
import pytest
import torch
import wild_code
from wild_code import SNIPPETS

from mammoth_compiled import ContinualModel, load_runner, register_backbone, register_model, train


def run(wild, switch):
    """Trains for three tasks with a ragged last batch; returns weights, loss and warnings."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    wild_code._calls = 0
    wild_code._GENERATOR.seed(1)
    register_backbone("wild-net")(wild_code.Base)
    name, args = "sgd", {"backbone": "wild-net"}
    if issubclass(wild.cls, ContinualModel):
        register_model("wild-model")(wild.cls)
        name = "wild-model"
    else:
        register_backbone("wild-other-net")(wild.cls)
        args = {"backbone": "wild-other-net"}
    args |= {"seed": 0, "batch_size": 8, "n_epochs": 2, "lr": 0.02, "device": "cpu", **wild.args}
    model, dataset = load_runner(name, "seq-tiny", {**args, "compile": switch})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = train(model, dataset)
    return model.net.state_dict(), results, [str(w.message) for w in caught]


@pytest.mark.parametrize("name", SNIPPETS)
def test_compiled_equals_eager(tiny, compiled_functions, name):
    wild = SNIPPETS[name]
    expected, eager_results, _ = run(wild, "off")
    weights, results, messages = run(wild, "on")
    torch.testing.assert_close(weights, expected, rtol=1e-4, atol=1e-5)
    assert results.loss == pytest.approx(eager_results.loss, rel=1e-4)
    fallbacks = [m for m in messages if "eagerly" in m]
    if wild.reasons:
        assert len(fallbacks) == 1
        assert any(reason in fallbacks[0] for reason in wild.reasons)
    else:
        assert fallbacks == []
