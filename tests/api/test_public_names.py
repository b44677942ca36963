"""The public names and signatures are frozen: a change here affects every user."""

import inspect

import pytest
import torch

import mammoth_compiled

# Mammoth Lite's names, then ours.
LITE = {
    "Buffer",
    "ContinualDataset",
    "ContinualModel",
    "MammothBackbone",
    "MammothDataset",
    "ReturnTypes",
    "add_rehearsal_args",
    "base_path",
    "get_avail_args",
    "get_backbone_names",
    "get_dataset_names",
    "get_device",
    "get_model_names",
    "load_runner",
    "register_backbone",
    "register_dataset",
    "register_model",
    "train",
}
OURS = {"__version__", "evaluate", "export_bundle", "load_bundle", "update_bundle"}

# Positional parameters with their defaults. More may be appended, or added as keywords.
SIGNATURES = {
    "load_runner": [("model",), ("dataset",), ("args", None)],
    "train": [("model",), ("dataset",), ("args", None), ("after_task", None)],
    "evaluate": [("model",), ("dataset",)],
    "get_avail_args": [("dataset", None), ("model", None), ("backbone", None)],
    "get_model_names": [("names_only", False)],
    "get_dataset_names": [("names_only", False)],
    "get_backbone_names": [("names_only", False)],
    "register_model": [("name",)],
    "register_dataset": [("name",)],
    "register_backbone": [("name",)],
    "add_rehearsal_args": [("parser",)],
    "base_path": [],
    "get_device": [("name", None)],
    "Buffer": [("buffer_size",), ("device", "cpu")],
    "Buffer.add_data": [
        ("self",),
        ("examples",),
        ("labels", None),
        ("logits", None),
        ("task_labels", None),
        ("true_labels", None),
        ("sample_selection_scores", None),
    ],
    "Buffer.get_data": [
        ("self",),
        ("size",),
        ("transform", None),
        ("return_index", False),
        ("device", None),
    ],
    "ContinualModel": [("backbone",), ("loss",), ("args",), ("transform",), ("dataset", None)],
    "ContinualModel.observe": [
        ("self",),
        ("inputs",),
        ("labels",),
        ("not_aug_inputs",),
        ("epoch", None),
    ],
    "ContinualModel.begin_task": [("self",), ("dataset",)],
    "ContinualModel.end_task": [("self",), ("dataset",)],
    "ContinualModel.begin_epoch": [("self",), ("epoch",), ("dataset",)],
    "ContinualModel.end_epoch": [("self",), ("epoch",), ("dataset",)],
    "ContinualModel.get_optimizer": [("self",), ("params", None), ("lr", None)],
    "ContinualModel.load_buffer": [("self",), ("buffer",)],
    "ContinualModel.get_parser": [("parser",)],
    "ContinualModel.forward": [("self",), ("x",)],
    "ContinualDataset": [("args",)],
    "ContinualDataset.get_offsets": [("self",), ("c_task", None)],
    "ContinualDataset.get_data_loaders": [("self",)],
    "ContinualDataset.meta_get_data_loaders": [("self",)],
    "ContinualDataset.reset": [("self",)],
    "ContinualDataset.get_backbone": [],
    "ContinualDataset.get_transform": [],
    "ContinualDataset.get_loss": [],
    "ContinualDataset.get_normalization_transform": [],
    "MammothBackbone.forward": [("self",), ("x",), ("returnt", "out")],
    "MammothBackbone.get_params": [("self",)],
    "MammothBackbone.set_params": [("self",), ("new_params",)],
    "MammothBackbone.get_grads": [("self",)],
    "MammothBackbone.set_grads": [("self",), ("new_grads",)],
    "export_bundle": [("model_or_backbone",), ("path",)],
    "load_bundle": [("path",), ("device", "cpu")],
    "update_bundle": [("bundle",), ("checkpoint_or_net",)],
}


def test_public_names_are_frozen():
    assert set(mammoth_compiled.__all__) == LITE | OURS
    assert all(hasattr(mammoth_compiled, name) for name in mammoth_compiled.__all__)


def test_star_import():
    namespace = {}
    exec("from mammoth_compiled import *", namespace)
    assert set(namespace) - {"__builtins__"} == LITE | OURS


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_frozen(name):
    target = mammoth_compiled
    for part in name.split("."):
        target = getattr(target, part)
    positional = [
        (p.name,) if p.default is p.empty else (p.name, p.default)
        for p in inspect.signature(target).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    assert positional[: len(SIGNATURES[name])] == SIGNATURES[name]
    # Added parameters must be optional.
    assert all(len(p) == 2 for p in positional[len(SIGNATURES[name]) :])


@pytest.mark.parametrize("name", sorted(LITE | OURS - {"__version__"}))
def test_public_api_has_docstrings(name):
    documentation = inspect.getdoc(getattr(mammoth_compiled, name))
    assert documentation
    assert documentation.split("\n")[0].endswith((".", ";"))


def test_models_and_datasets_have_lite_attributes(tiny):
    model, dataset = mammoth_compiled.load_runner("er", "seq-tiny", {"buffer_size": 5})
    for name in ("args", "device", "net", "loss", "opt", "transform", "dataset"):
        assert getattr(model, name) is not None
    assert (model.num_classes, model.n_tasks, model.NAME) == (6, 3, "er")
    assert mammoth_compiled.ContinualModel.COMPATIBILITY == ["class-il", "task-il"]
    assert set(model.COMPATIBILITY) >= {"class-il", "task-il"}
    assert model.pbar_suffix == {}
    assert model.normalization_transform(torch.zeros(3, 2, 2)).unique().tolist() == [-2.0]
    assert (dataset.NAME, dataset.c_task, dataset.N_CLASSES) == ("seq-tiny", -1, 6)
    assert dataset.test_loaders == []
    assert mammoth_compiled.Buffer(3).attributes[0] == "examples"
