"""Hostile dictionaries of `load_runner`: every argument with every kind of invalid object."""

import pytest
from hostile_values import Unprintable, invalid_objects, parser

from mammoth_compiled import load_runner
from mammoth_compiled.registry import datasets

REQUIRED = {"backbone": "cnn", "buffer_size": 20, "alpha": 0.1, "beta": 0.5, "compile": "off"}


def names():
    with datasets.restored():
        return list(parser(dataset="seq-fmnist-mini").arguments)


@pytest.mark.parametrize("name", names())
@pytest.mark.usefixtures("tiny")
def test_invalid_object(refused, name):
    export = {"export": "bundle"} if name in ("formats", "export_variants") else {}
    # Only the exporter knows the names of formats.
    late = {"zip", "fp16,fp16", "onnx, ,pt2"} if export else set()
    for value in invalid_objects(parser().arguments[name]):
        if isinstance(value, str) and value in late:
            continue
        args = {**REQUIRED, **export, name: value}
        kind = type(value).__name__
        refused(f"{name}: {kind}", lambda args=args: load_runner("derpp", "seq-tiny", args), name)


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--lr", "0.1"],
        "lr",
        3,
        [("lr", 0.1)],
        {"lr", "seed"},
        Unprintable(),
    ],
    ids=lambda args: type(args).__name__,
)
@pytest.mark.usefixtures("tiny")
def test_arguments_that_are_no_dictionary(refused, args):
    if args == []:
        args = [None]
    refused("args", lambda: load_runner("sgd", "seq-tiny", args), "dictionary")


@pytest.mark.parametrize(
    "name", ["", "lrr", "--lr", "lr ", "LR", "x" * 5000, 3, None, (), 1.5, b"lr"]
)
@pytest.mark.usefixtures("tiny")
def test_unknown_argument(refused, name):
    refused(
        "name",
        lambda: load_runner("sgd", "seq-tiny", {name: 1}),
        "unknown argument",
        "get_avail_args",
    )


@pytest.mark.parametrize("kind", ["model", "dataset", "backbone"])
@pytest.mark.parametrize(
    "name", ["", " ", "x" * 5000, 3, None, [], {}, b"sgd", object(), "s\0gd", "ünï"]
)
@pytest.mark.usefixtures("tiny")
def test_unknown_name(refused, kind, name):
    if kind == "backbone" and name is None:
        return  # not given
    parts = {"model": "sgd", "dataset": "seq-tiny", kind: name}
    args = {"backbone": name} if kind == "backbone" else {}
    refused(kind, lambda: load_runner(parts["model"], parts["dataset"], args), kind)


@pytest.mark.parametrize(
    ("args", "flag"),
    [
        ({"model": "der"}, "--model"),
        ({"dataset": "seq-mnist"}, "--dataset"),
        ({"dataset": ""}, "--dataset"),
        ({"backbone": ""}, "backbone"),
        ({"buffer_size": 2**31 - 1}, "--buffer_size"),
        ({"buffer_size": 10, "minibatch_size": 20}, "--minibatch_size"),
        ({"backbone": "cnn", "num_channels": 10**6}, "--num_channels"),
        ({"backbone": "cnn", "input_size": 10**6}, "--input_size"),
        ({"backbone": "mnistmlp", "hidden_size": 2**31 - 1}, "--hidden_size"),
        ({"backbone": "resnet18", "num_filters": 2**31 - 1}, "--num_filters"),
        ({"backbone": "cnn", "input_size": 64}, "cnn"),
        ({"backbone": "cnn", "in_channels": 5}, "cnn"),
        ({"optim_nesterov": True}, "--optim_nesterov"),
        ({"lr_milestones": [1, 2]}, "--lr_milestones"),
        ({"lr_scheduler": "multistep", "lr_milestones": []}, "--lr_milestones"),
        ({"lr_scheduler": "multistep", "lr_milestones": [1, -2]}, "--lr_milestones"),
        ({"formats": "onnx"}, "--formats"),
        ({"device": "cuda:99"}, "cuda:99"),
        ({"device": "meta"}, "meta"),
        ({"device": "cpu:1"}, "cpu:1"),
        ({"device": 0}, "--device"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("tiny")
def test_values_that_do_not_fit_together(refused, args, flag):
    run = {"buffer_size": 20, **args}
    refused(str(args), lambda: load_runner("er", "seq-tiny", run), flag)
