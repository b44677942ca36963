"""Networks to export compute the scores of methods whose scores are not the backbone's logits."""

import pytest
import torch

from mammoth_compiled import export_bundle, load_bundle, load_runner, train, update_bundle
from mammoth_compiled.errors import CheckpointError
from mammoth_compiled.export.__main__ import main
from mammoth_compiled.export.checkpoint import load_backbone
from mammoth_compiled.models.networks.headed import HeadedNet
from mammoth_compiled.models.networks.scored import LOWEST, LinearScores
from mammoth_compiled.registry import datasets, models, register_dataset

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


def run_and_load(run_tiny, tmp_path, name, **args):
    """Returns the model after a run, and what an export of its checkpoint starts from."""
    model, dataset, _ = run_tiny(name, **args, savecheck="last", checkpoint_path=str(tmp_path))
    (path,) = tmp_path.glob("*.pt")
    return model, next(iter(dataset.test_loaders[0]))[0], str(path)


@pytest.mark.parametrize("name", list(models))
def test_checkpoint_has_the_network_of_its_model(run_tiny, example_args, tmp_path, name):
    args = {**example_args(name), **ARGS.get(name, {})}
    model, images, path = run_and_load(run_tiny, tmp_path, name, **args)
    backbone, net, info = load_backbone(path)
    expected = model.deployed_net()
    assert type(net) is type(expected)
    assert backbone == model.args.backbone
    assert info == model.dataset.info()
    assert list(net.state_dict()) == list(expected.state_dict())
    for returnt in ("out", "features"):
        with torch.no_grad():
            found = net.eval()(images, returnt=returnt)
            assert torch.equal(found, expected.eval()(images, returnt=returnt))


@pytest.mark.parametrize("name", ["ease", "simplecil", "icarl", "cls-er"])
def test_checkpoint_is_exported_as_its_run_is(run_tiny, example_args, tmp_path, name):
    args = {**example_args(name), **ARGS.get(name, {})}
    model, images, path = run_and_load(run_tiny, tmp_path, name, **args)
    assert main([path, str(tmp_path / "bundle"), "--formats", "onnx"]) == 0
    bundle, net = load_bundle(tmp_path / "bundle"), model.deployed_net().eval()
    with torch.no_grad():
        expected = net(images, returnt="both")
    torch.testing.assert_close(bundle(images, returnt="both"), expected, rtol=1e-3, atol=1e-4)
    assert bundle.manifest.name == model.args.backbone
    assert bundle.classes_seen == tuple(range(6))


def test_update_from_a_checkpoint_has_the_scores(run_tiny, tmp_path):
    model, images, path = run_and_load(run_tiny, tmp_path, "slda", **ARGS["slda"])
    untrained, _ = load_runner("slda", "seq-tiny", {"seed": 1, "compile": "off"})
    net = HeadedNet(untrained.net, LinearScores(torch.ones(6, 64), torch.ones(6), torch.ones(6)))
    bundle = export_bundle(net, tmp_path / "b", info=model.dataset.info(), formats="onnx")
    update_bundle(bundle, path)
    found = torch.as_tensor(load_bundle(bundle)(images))
    torch.testing.assert_close(found, model(images), rtol=1e-3, atol=1e-3)


def test_checkpoint_of_domains(run_tiny, example_args, tmp_path):
    args = {**example_args("ranpac"), "batch_size": 8, "dataset": "tiny-domains"}

    @register_dataset("tiny-domains")
    class Domains(datasets["seq-tiny"].target):
        SETTING, N_CLASSES_PER_TASK, N_TASKS = "domain-il", 6, 2

    model, images, path = run_and_load(run_tiny, tmp_path, "ranpac", **args)
    _, net, info = load_backbone(path)
    assert info.tasks == ((0, 6), (0, 6))
    with torch.no_grad():
        assert torch.equal(net.eval()(images), model.net.eval()(images))


def test_checkpoint_that_cannot_be_rebuilt_says_how_to_export_it(tiny, tmp_path, monkeypatch):
    args = {"seed": 0, "compile": "off", "savecheck": "last", "checkpoint_path": str(tmp_path)}
    train(*load_runner("slda", "seq-tiny", args))

    def fails(self, *args, **kwargs):
        raise LookupError("no file of prototypes")

    monkeypatch.setattr(models["slda"].target, "__init__", fails)
    message = r"'slda' cannot be rebuilt .*\(LookupError: no file of prototypes\).*--inference_only"
    with pytest.raises(CheckpointError, match=message):
        load_backbone(str(next(tmp_path.glob("*.pt"))))
