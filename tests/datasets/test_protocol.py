"""Protocols by flag: what a run trains and evaluates on, its bundle's classes, exact resume."""

import numpy as np
import pytest
import torch
from torchvision import transforms

from mammoth_compiled import load_runner, train
from mammoth_compiled.errors import CheckpointError, ConfigError, DataError
from mammoth_compiled.registry import models

RUN = {"batch_size": 8, "n_epochs": 1, "compile": "off", "seed": 0, "lr": 0.05, "device": "cpu"}


@pytest.fixture
def load(tiny):
    """Returns a function that builds the tiny dataset, 6 classes x 18 images, with flags."""
    return lambda name="seq-tiny", **flags: load_runner("sgd", name, {**RUN, **flags})[1]


def stages(dataset):
    """Returns the training set of every stage."""
    return [dataset.meta_get_data_loaders()[0].dataset for _ in range(dataset.num_stages)]


def classes(split):
    return sorted(set(np.asarray(split.targets).tolist()))


@pytest.mark.parametrize(
    ("flags", "tasks"),
    [
        ({"n_tasks": 2}, [(0, 3), (3, 6)]),
        ({"classes_per_task": [1, 5]}, [(0, 1), (1, 6)]),
        ({"base_classes": 4, "classes_per_task": 1}, [(0, 4), (4, 5), (5, 6)]),
    ],
)
def test_tasks(load, flags, tasks):
    dataset = load(**flags)
    assert (len(tasks), 6) == (dataset.N_TASKS, dataset.N_CLASSES)
    assert [dataset.get_offsets(task) for task in range(len(tasks))] == tasks
    assert [classes(split) for split in stages(dataset)] == [list(range(*task)) for task in tasks]
    assert [classes(loader.dataset) for loader in dataset.test_loaders] == [
        list(range(*task)) for task in tasks
    ]
    assert dataset.info().tasks == tuple(tasks)


def test_class_order_renumbers_labels_and_names(load, tiny, monkeypatch):
    names = ("a", "b", "c", "d", "e", "f")
    monkeypatch.setattr(tiny.Dataset, "CLASS_NAMES", names)
    order = [3, 0, 5, 1, 4, 2]
    native, dataset = load(), load(custom_class_order=order)
    assert dataset.info().class_names == tuple(names[k] for k in order)
    images = {}
    for split in stages(native):
        images |= {k: split.data[np.asarray(split.targets) == k] for k in classes(split)}
    for task, split in enumerate(stages(dataset)):
        assert classes(split) == [2 * task, 2 * task + 1]
        for k in classes(split):
            assert np.array_equal(split.data[split.targets == k], images[order[k]])


def test_default_class_names_are_the_ids_in_the_data(load):
    assert load(custom_class_order=["5-5,0-4"]).info().class_names == tuple("501234")


def test_validation_images_replace_the_test_set(load):
    dataset = load("seq-tiny-augmented", validation=16)
    whole, _ = load("seq-tiny-augmented").load_splits()
    for task, split in enumerate(stages(dataset)):
        held_out = dataset.test_loaders[task].dataset
        assert np.bincount(split.targets)[2 * task :].tolist() == [15, 15]
        assert np.bincount(held_out.targets)[2 * task :].tolist() == [3, 3]
        assert held_out.transform is dataset.TEST_TRANSFORM
        mine = [image.tobytes() for image in (*split.data, *held_out.data)]
        task_rows = (whole.targets // 2) == task
        assert sorted(mine) == sorted(image.tobytes() for image in whole.data[task_rows])


def test_a_run_says_that_it_validates(load, capsys):
    stages(load(validation=16))
    line = "data: accuracies are those on validation images, not on the test set\n"
    assert capsys.readouterr().out == line
    stages(load())
    assert capsys.readouterr().out == ""


def test_validation_images_do_not_depend_on_the_class_order(load):
    def held_out(**flags):
        dataset = load(validation=0.2, **flags)
        stages(dataset)
        return {image.tobytes() for loader in dataset.test_loaders for image in loader.dataset.data}

    assert held_out() == held_out(class_order_seed=1993, n_tasks=2)


def test_fewer_labels_per_class(load):
    assert [len(split) for split in stages(load(labels_per_class=0.5))] == [18, 18, 18]
    assert [len(split) for split in stages(load(labels_per_class=4))] == [8, 8, 8]


def test_noisy_labels_keep_the_true_ones(load):
    dataset, clean = load(noise_rate=0.4, class_order_seed=1), load(class_order_seed=1)
    wrong = 0
    for split, expected in zip(stages(dataset), stages(clean), strict=True):
        assert classes(split) == classes(expected)
        assert np.array_equal(split.data, expected.data)
        assert np.array_equal(split.true_labels, expected.targets)
        wrong += int((split.targets != split.true_labels).sum())
    assert 25 < wrong < 62  # of 108


@pytest.mark.parametrize("name", list(models))
def test_every_model_trains_on_noisy_labels(run_tiny, example_args, name):
    model, _, results = run_tiny(name, noise_rate=0.4, **example_args(name))
    assert results.class_il
    stored = getattr(getattr(model, "buffer", None), "used_attributes", [])
    if {"labels", "true_labels"} <= set(stored):
        wrong = (model.buffer.labels != model.buffer.true_labels).float().mean()
        assert 0 < wrong < 1


def test_the_buffer_holds_true_labels(run_tiny):
    model, _, _ = run_tiny("er", noise_rate=0.4, buffer_size=200)  # more than the 108 images
    examples, labels, true_labels = model.buffer.get_all_data()
    clean, _ = load_runner("sgd", "seq-tiny", RUN)[1].load_splits()
    truth = {
        image.tobytes(): int(label) for image, label in zip(clean.data, clean.targets, strict=True)
    }
    stored = (examples * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert [truth[np.ascontiguousarray(image).tobytes()] for image in stored] == (
        true_labels.tolist()
    )
    assert 25 < (labels != true_labels).sum() < 62
    assert torch.equal(labels // 2, true_labels // 2)


def test_blurry_tasks_share_classes(load):
    dataset, clean = load(blurry=0.5), load()
    splits = stages(dataset)
    assert [classes(split) for split in splits] == [list(range(6))] * 3
    assert sum(len(split) for split in splits) == sum(len(split) for split in stages(clean))
    assert [classes(loader.dataset) for loader in dataset.test_loaders] == [[0, 1], [2, 3], [4, 5]]


def test_online_is_one_epoch(load):
    args = {"online": 1, "compile": "off", "batch_size": 8}
    model, _ = load_runner("sgd", "seq-cifar10", {**args, "backbone": "cnn"})
    assert model.args.n_epochs == 1  # the default is 50
    with pytest.raises(ConfigError, match="--online 1 is one pass over each task"):
        load_runner("sgd", "seq-tiny", {**args, "n_epochs": 2})


REFUSED = {
    "too many tasks": ({"n_tasks": 7}, "--n_tasks 7 does not fit 6 classes"),
    "missing class": ({"custom_class_order": ["0-4"]}, "lacks class 5"),
    "noise in a task of one class": ({"n_tasks": 6, "noise_rate": 0.1}, "task 1 has one class"),
    "blurry without tasks": ({"n_tasks": 1, "blurry": 0.1}, "--blurry needs at least two tasks"),
    "blurry joint": ({"joint": 1, "blurry": 0.1}, "--blurry has no effect on joint training"),
    "disjoint alone": ({"disjoint_classes": 0.5}, "--disjoint_classes needs --blurry"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_training(load, name):
    flags, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load(**flags)


@pytest.mark.parametrize(
    ("flag", "value"), [("classes_per_task", 2), ("class_order_seed", 0), ("blurry", 0.1)]
)
def test_domain_il_refuses_flags_of_class_splits(load, tiny, monkeypatch, flag, value):
    monkeypatch.setattr(tiny.Dataset, "SETTING", "domain-il")
    monkeypatch.setattr(tiny.Dataset, "N_CLASSES_PER_TASK", 6)
    with pytest.raises(ConfigError, match=f"--{flag} needs tasks split by class"):
        load(**{flag: value})
    with pytest.raises(ConfigError, match="--n_tasks 2: dataset 'seq-tiny' is domain-il with 3"):
        load(n_tasks=2)


def test_models_that_need_task_boundaries_refuse_blurry_ones(tiny, monkeypatch):
    from mammoth_compiled.models.sgd import SGD

    monkeypatch.setattr(SGD, "COMPATIBILITY", ["class-il"])
    with pytest.raises(ConfigError, match="'seq-tiny' is general-continual because of --blurry"):
        load_runner("sgd", "seq-tiny", {**RUN, "blurry": 0.1})


def test_validation_that_leaves_a_class_empty_is_reported(load):
    with pytest.raises(DataError, match="--validation 99 leaves class 0 without a training image"):
        load(validation=99).meta_get_data_loaders()


def test_validation_needs_the_same_type_of_data(load, tiny, monkeypatch):
    data, targets = tiny.images(4)
    other = tiny.Split(list(data), targets, transforms.ToTensor())
    whole = tiny.Split(data, targets, transforms.ToTensor())
    monkeypatch.setattr(tiny.Dataset, "get_data_loaders", lambda self: (whole, other))
    with pytest.raises(DataError, match="same type in both sets, got ndarray and list"):
        load(validation=1).meta_get_data_loaders()


FLAGS = {
    "class_order_seed": 1993,
    "validation": 16,
    "labels_per_class": 12,
    "noise_rate": 0.2,
    "blurry": 0.3,
}


def test_resumed_run_equals_uninterrupted_run(run_tiny, tmp_path):
    args = {"model": "er", "buffer_size": 20, **FLAGS}
    model, _, results = run_tiny(**args)
    run_tiny(**args, savecheck="task", checkpoint_path=str(tmp_path))
    for path in tmp_path.glob("*.pt"):
        resumed, _, again = run_tiny(**args, loadcheck=str(path))
        assert again.class_il == results.class_il
        for one, other in zip(resumed.net.parameters(), model.net.parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 9}, "is from seed 0, this run has 9: use --seed 0"),
        ({"class_order_seed": 3}, "use --class_order_seed 1993"),
        ({"noise_type": "asymmetric"}, "use --noise_type symmetric"),
    ],
)
def test_resume_refuses_other_data(run_tiny, tmp_path, changed, message):
    run_tiny(**FLAGS, savecheck="last", checkpoint_path=str(tmp_path))
    (path,) = tmp_path.glob("*.pt")
    with pytest.raises(CheckpointError, match=message):
        run_tiny(**{**FLAGS, **changed}, loadcheck=str(path))


def test_resume_says_which_flag_to_leave_out(run_tiny, tmp_path):
    run_tiny(savecheck="last", checkpoint_path=str(tmp_path))
    (path,) = tmp_path.glob("*.pt")
    with pytest.raises(CheckpointError, match="leave --validation out"):
        run_tiny(validation=0.1, loadcheck=str(path))
    with pytest.raises(CheckpointError, match="with tasks"):
        run_tiny(classes_per_task=[1, 1, 4], loadcheck=str(path))


def test_every_method_of_training_sees_the_protocol(tiny):
    flags = {**RUN, "class_order_seed": 1993, "n_tasks": 2}
    results = train(*load_runner("sgd", "seq-tiny", flags))
    assert [len(row) for row in results.class_il] == [1, 2]
    results = train(*load_runner("sgd", "seq-tiny", {**flags, "joint": 1}))
    assert [len(row) for row in results.class_il] == [2]
