"""ContinualDataset: splitting a dataset into tasks, in every setting."""

from argparse import Namespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision import transforms

from mammoth_compiled import (
    ContinualDataset,
    load_runner,
    register_dataset,
    register_model,
    train,
)
from mammoth_compiled.datasets import set_default_from_args
from mammoth_compiled.errors import ConfigError, DataError
from mammoth_compiled.models.sgd import SGD


@pytest.fixture
def stream(tiny):
    """Returns a function that builds the tiny dataset with other class attributes."""

    def make(args=None, **attributes):
        kind = type("Stream", (tiny.Dataset,), {"NAME": "stream", **attributes})
        return kind(Namespace(**{"batch_size": 8, "device": "cpu", **(args or {})}))

    return make


def classes(loader):
    return sorted(set(torch.cat([labels for _, labels, _ in loader]).tolist()))


@pytest.mark.parametrize("setting", ["class-il", "task-il"])
@pytest.mark.parametrize(
    ("per_task", "tasks"), [(2, [[0, 1], [2, 3], [4, 5]]), ([1, 3, 2], [[0], [1, 2, 3], [4, 5]])]
)
def test_tasks_split_by_class(stream, setting, per_task, tasks):
    dataset = stream(SETTING=setting, N_CLASSES_PER_TASK=per_task)
    assert dataset.N_CLASSES == 6
    assert (dataset.c_task, dataset.num_stages) == (-1, 3)
    for task, expected in enumerate(tasks):
        train_loader, test_loader = dataset.meta_get_data_loaders()
        assert dataset.c_task == task
        assert classes(train_loader) == classes(test_loader) == expected
        assert dataset.get_offsets() == (expected[0], expected[-1] + 1)
        assert dataset.train_loader is train_loader
        assert dataset.test_loaders[-1] is test_loader
        assert len(dataset.test_loaders) == task + 1
    assert [dataset.get_offsets(t) for t in range(3)] == [(t[0], t[-1] + 1) for t in tasks]


def test_joint_training_has_all_classes_and_one_test_loader_per_task(stream):
    dataset = stream({"joint": True})
    train_loader, _ = dataset.meta_get_data_loaders()
    assert dataset.num_stages == 1
    assert classes(train_loader) == [0, 1, 2, 3, 4, 5]
    assert [classes(loader) for loader in dataset.test_loaders] == [[0, 1], [2, 3], [4, 5]]
    assert dataset.get_offsets() == (0, 6)
    assert dataset.get_offsets(1) == (2, 4)
    assert dataset.info().tasks_seen == 3


@pytest.fixture
def rotated(stream, tiny):
    """Returns a function that builds a domain-IL dataset whose tasks are rotated by 90 degrees."""

    def get_data_loaders(self):
        data, targets = tiny.images(4, num_classes=6, seed=1)
        test = tiny.images(2, num_classes=6, seed=2)
        return (
            tiny.Split(np.rot90(data, self.c_task, (1, 2)).copy(), targets, self.TRANSFORM),
            tiny.Split(np.rot90(test[0], self.c_task, (1, 2)).copy(), test[1], self.TRANSFORM),
        )

    def make(args=None, **attributes):
        attributes = {"get_data_loaders": get_data_loaders, **attributes}
        return stream(args, SETTING="domain-il", N_CLASSES_PER_TASK=6, **attributes)

    return make


def test_domain_il_loads_data_for_each_task(rotated):
    dataset = rotated()
    firsts = []
    for _ in range(3):
        loader, _ = dataset.meta_get_data_loaders()
        assert classes(loader) == [0, 1, 2, 3, 4, 5]
        assert dataset.get_offsets() == (0, 6)
        firsts.append(next(iter(dataset.test_loaders[-1]))[0][0])
    assert torch.equal(firsts[1], firsts[0].rot90(1, (1, 2)))
    assert torch.equal(firsts[2], firsts[0].rot90(2, (1, 2)))
    assert dataset.c_task == 2


@pytest.mark.parametrize("setting", ["task-il", "domain-il"])
def test_other_settings_can_be_trained(tiny, setting):
    @register_dataset("seq-other")
    class Other(tiny.Dataset):
        SETTING = setting
        N_CLASSES_PER_TASK = 6 if setting == "domain-il" else 2

    @register_model("sgd-everywhere")
    class Everywhere(SGD):
        COMPATIBILITY = ["class-il", "task-il", "domain-il"]  # noqa: RUF012

    results = train(*load_runner("sgd-everywhere", "seq-other", {"lr": 0.05, "compile": "off"}))
    assert [len(row) for row in results.class_il] == [1, 2, 3]
    if setting == "domain-il":
        assert results.class_il == results.task_il


def test_reset_returns_to_the_start(stream):
    dataset = stream()
    dataset.meta_get_data_loaders()
    dataset.reset()
    assert (dataset.c_task, dataset.test_loaders, dataset.train_loader) == (-1, [], None)


def test_complete_sets_are_not_modified(stream, tiny):
    whole = tiny.Split(*tiny.images(4), transforms.ToTensor())
    dataset = stream(get_data_loaders=lambda self: (whole, whole))
    for _ in range(3):
        train_loader, test_loader = dataset.meta_get_data_loaders()
        assert len(train_loader.dataset) == 8
        train_loader.dataset.targets[:] = 0
        assert train_loader.dataset is not test_loader.dataset
        assert len(whole) == 24
    assert sorted(set(whole.targets.tolist())) == [0, 1, 2, 3, 4, 5]


def test_targets_may_be_a_list_and_data_a_tensor(stream, tiny):
    def image(self, i):
        return self.data[i].permute(2, 0, 1).float()

    data, targets = tiny.images(4)
    whole = tiny.Split(torch.from_numpy(data), targets.tolist(), transforms.ToTensor())
    whole.__class__ = type(
        "Tensors",
        (tiny.Split,),
        {"__getitem__": lambda s, i: (s.image(i), int(s.targets[i]), s.image(i)), "image": image},
    )
    dataset = stream(get_data_loaders=lambda self: (whole, whole))
    loader, _ = dataset.meta_get_data_loaders()
    assert classes(loader) == [0, 1]
    assert loader.fallback_reason == "its `data` is not a uint8 array of images"


def test_fallback_is_reported_once(stream, capsys):
    slow = transforms.Compose([transforms.RandomPerspective(), transforms.ToTensor()])
    dataset = stream(TRANSFORM=slow)
    for _ in range(3):
        dataset.meta_get_data_loaders()
    assert capsys.readouterr().out == (
        "data: stream is loaded image by image (slower), because transform RandomPerspective "
        "has no batched version\n"
    )


def test_info_describes_the_tasks_seen(stream):
    dataset = stream(CLASS_NAMES=tuple("abcdef"))
    assert dataset.info().classes_seen == ()
    dataset.meta_get_data_loaders()
    info = dataset.info()
    assert (info.name, info.input_shape, info.num_classes) == ("stream", (3, 8, 8), 6)
    assert (info.mean, info.std) == ((0.5,) * 3, (0.25,) * 3)
    assert info.tasks == ((0, 2), (2, 4), (4, 6))
    assert info.classes_seen == (0, 1)
    assert info.class_names == tuple("abcdef")


def test_info_without_size_reads_the_shape_of_an_image(stream, tiny, monkeypatch):
    monkeypatch.delattr(tiny.Dataset, "SIZE")
    dataset = stream()
    assert dataset.input_shape() is None
    with pytest.raises(DataError, match=r"Stream must set SIZE = \(height, width\)"):
        dataset.info()
    dataset.meta_get_data_loaders()
    assert dataset.info().input_shape == (3, 8, 8)
    assert dataset.info().class_names == tuple("012345")


def test_default_loss_and_transforms(stream):
    dataset = stream(TRANSFORM=transforms.ToTensor())
    assert dataset.get_loss() is F.cross_entropy
    to_pil, own = dataset.get_transform().transforms
    assert isinstance(to_pil, transforms.ToPILImage)
    assert own is dataset.TRANSFORM
    normalize = dataset.get_normalization_transform()
    assert (normalize.mean, normalize.std) == ((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(NotImplementedError, match="give a backbone"):
        ContinualDataset.get_backbone()


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (
            {"SETTING": "general"},
            "Stream.SETTING is 'general'; valid: class-il, task-il, domain-il",
        ),
        ({"SETTING": None}, "Stream.SETTING is None"),
        ({"N_CLASSES_PER_TASK": [2, 2]}, "N_CLASSES_PER_TASK has 2 entries for 3 tasks"),
    ],
)
def test_invalid_class_attributes_are_rejected(stream, attributes, message):
    with pytest.raises(ConfigError, match=message):
        stream(**attributes)


def test_joint_training_in_domain_il_has_the_images_of_all_domains(rotated):
    separate, joint = rotated(), rotated({"joint": True})
    tasks = [separate.meta_get_data_loaders()[0].dataset for _ in range(3)]
    loader, _ = joint.meta_get_data_loaders()
    assert (joint.num_stages, joint.c_task, len(joint.test_loaders)) == (1, 2, 3)
    assert np.array_equal(loader.dataset.data, np.concatenate([task.data for task in tasks]))
    assert np.array_equal(loader.dataset.targets, np.tile(tasks[0].targets, 3))
    for alone, together in zip(separate.test_loaders, joint.test_loaders, strict=True):
        assert torch.equal(next(iter(alone))[0], next(iter(together))[0])


def test_joint_training_needs_arrays_in_domain_il(rotated, tiny):
    data, targets = tiny.images(4, num_classes=6)
    whole = tiny.Split(list(data), targets, transforms.ToTensor())
    dataset = rotated({"joint": True}, get_data_loaders=lambda self: (whole, whole))
    with pytest.raises(DataError, match="joint training needs `data` to be an array"):
        dataset.meta_get_data_loaders()


def test_gray_images_need_no_mean(stream, tiny, monkeypatch):
    monkeypatch.delattr(tiny.Dataset, "MEAN")
    monkeypatch.delattr(tiny.Dataset, "STD")

    def get_data_loaders(self):
        torch.rand(1)  # reading a file may draw random numbers
        images, targets = tiny.images(4, num_classes=6)
        split = tiny.Split(images[..., 0].copy(), targets, transforms.ToTensor())
        return split, split

    before = torch.get_rng_state()
    dataset = stream(get_data_loaders=get_data_loaders)
    assert dataset.input_shape() == (1, 8, 8)
    assert torch.equal(torch.get_rng_state(), before)
    inputs, *_ = next(iter(dataset.meta_get_data_loaders()[0]))
    assert inputs.shape == (8, 1, 8, 8)
    assert dataset.info().mean == ()


def test_incomplete_splits_are_rejected(stream, tiny):
    good = tiny.Split(*tiny.images(4), transforms.ToTensor())
    part = tiny.Split(good.data[good.targets < 2], good.targets[good.targets < 2], None)
    bare = torch.utils.data.TensorDataset(torch.zeros(3))
    with pytest.raises(DataError, match=r"the test set \(TensorDataset\) has no attribute `data`"):
        stream(get_data_loaders=lambda self: (good, bare)).meta_get_data_loaders()
    for splits, kind in (((good, part), "test"), ((part, good), "training")):
        dataset = stream(get_data_loaders=lambda self, splits=splits: splits)
        message = rf"the {kind} set has no image of classes 2 to 3 \(task 2\)"
        with pytest.raises(DataError, match=message):  # before the first task is trained
            dataset.meta_get_data_loaders()


def test_missing_get_data_loaders_is_reported():
    class Empty(ContinualDataset):
        NAME, SETTING, N_CLASSES_PER_TASK, N_TASKS = "empty", "class-il", 2, 1

    with pytest.raises(NotImplementedError, match=r"Empty does not define get_data_loaders\(\)"):
        Empty(Namespace(batch_size=1)).meta_get_data_loaders()


def test_defaults_declared_by_methods(tiny):
    @register_dataset("seq-declared")
    class Declared(tiny.Dataset):
        DEFAULTS = {"lr": 0.2, "n_epochs": 9}  # noqa: RUF012

        @set_default_from_args("n_epochs")
        def get_epochs(self):
            return 2

        @set_default_from_args("batch_size")
        def get_batch_size():
            return 6

        @set_default_from_args("lr_scheduler")  # Mammoth's name of "multistep"
        def get_scheduler_name(self):
            return "multisteplr"

        @set_default_from_args("lr_milestones")
        @staticmethod
        def milestones():
            return [1]

        @set_default_from_args("optim_mom")
        def from_object(self):
            return self.args.lr / 2  # the class has no args: no default

        @set_default_from_args("backbone")
        def get_backbone(self):
            return "tiny-net"

    model, dataset = load_runner("sgd", "seq-declared", {"n_epochs": 1})
    args = model.args
    assert (args.lr, args.n_epochs, args.batch_size, args.backbone) == (0.2, 1, 6, "tiny-net")
    assert (args.lr_scheduler, args.lr_milestones, args.optim_mom) == ("multistep", [1], 0)
    assert (dataset.get_epochs(), dataset.get_batch_size(), dataset.milestones()) == (2, 6, [1])
    assert dataset.from_object() == 0.1
    assert Declared.get_backbone() == dataset.get_backbone() == "tiny-net"
    assert tiny.Dataset.DEFAULTS == {}


def test_arguments_by_methods(tiny):
    args = {"n_epochs": 3, "batch_size": 5, "buffer_size": 9, "minibatch_size": 4}
    _, dataset = load_runner("er", "seq-tiny", args)
    assert (dataset.get_epochs(), dataset.get_iters(), dataset.get_batch_size()) == (3, None, 5)
    assert (dataset.get_minibatch_size(), dataset.get_class_names()) == (4, list("012345"))
    images = torch.rand(3, 2, 2)
    restored = dataset.get_denormalization_transform()(
        dataset.get_normalization_transform()(images)
    )
    torch.testing.assert_close(restored, images)


@pytest.mark.parametrize("batched", [True, False])
def test_fields_of_a_dataset_follow_its_images(tiny, batched):
    """Each image of class k has the field k, in every task."""

    class Split(tiny.Split):
        def __init__(self, *args):
            super().__init__(*args)
            self.add_extra_return_field("code", 10 * self.targets)

    @register_dataset("seq-fields")
    class Fields(tiny.Dataset):
        def get_data_loaders(self):
            transform = self.TRANSFORM if batched else transforms.Lambda(self.TRANSFORM)
            train, test = super().get_data_loaders()
            return Split(train.data, train.targets, transform), test

    _, dataset = load_runner("sgd", "seq-fields", {"batch_size": 7})
    for _ in range(3):
        loader, _ = dataset.meta_get_data_loaders()
        for _, labels, _, code in loader:
            assert torch.equal(code, 10 * labels)
