"""Networks to export compute the scores of methods whose scores are not the backbone's logits."""

import pytest
import torch

from mammoth_compiled import export_bundle, load_bundle, load_runner, train, update_bundle
from mammoth_compiled.export.checkpoint import load_backbone
from mammoth_compiled.models.networks.scored import LOWEST
from mammoth_compiled.registry import models

ARGS = {
    "bic": {"buffer_size": 20},
    "cls-er": {"buffer_size": 20},
    "icarl": {"buffer_size": 12, "lr": 0.1},
    "scr": {"buffer_size": 12},
    "slda": {"shrinkage": 0.1},
}


def test_every_model_with_other_scores_is_here():
    base = models["sgd"].target
    assert {name for name in models if models[name].target.forward is not base.forward} == set(ARGS)


@pytest.mark.parametrize("name", ARGS)
def test_bundle_gives_the_scores_of_the_model(run_tiny, tmp_path, name):
    model, dataset, _ = run_tiny(name, **ARGS[name])
    net = model.net
    path = export_bundle(model, tmp_path / "bundle", formats="onnx")
    bundle = load_bundle(path)
    images = next(iter(dataset.test_loaders[0]))[0]
    model.net.eval()
    with torch.no_grad():
        scores = model(images)
        features = (model.stable if name == "cls-er" else net)(images, returnt="features")
    out = torch.as_tensor(bundle(images))
    # A file cannot hold -inf.
    torch.testing.assert_close(out, scores.clamp(min=LOWEST), rtol=1e-3, atol=1e-3)
    assert torch.equal(out.argmax(1), scores.argmax(1))
    torch.testing.assert_close(torch.as_tensor(bundle(images, returnt="features")), features)
    assert model.net is net
    update_bundle(path, model)
    assert torch.equal(torch.as_tensor(load_bundle(path)(images)), out)


def test_classes_without_a_score_have_the_lowest_number(tiny, tmp_path):
    model, dataset = load_runner("slda", "seq-tiny", {"seed": 0, "compile": "off"})
    dataset.meta_get_data_loaders()
    model.meta_begin_task(dataset)
    model.meta_end_task(dataset)
    bundle = load_bundle(export_bundle(model, tmp_path / "bundle", formats="onnx"))
    out = torch.as_tensor(bundle(torch.rand(2, *dataset.input_shape())))
    assert (out[:, 2:] == LOWEST).all()
    assert (out[:, :2] > LOWEST).all()


def test_backbone_of_a_checkpoint_lacks_the_scores(tiny, tmp_path):
    args = {"seed": 0, "compile": "off", "savecheck": "last", "checkpoint_path": str(tmp_path)}
    model, dataset = load_runner("slda", "seq-tiny", args)
    train(model, dataset)
    with pytest.warns(UserWarning, match="slda predicts with scores that the backbone"):
        load_backbone(str(next(tmp_path.glob("*.pt"))))
