"""CIFAR at 224x224: enlarged in the batch, stored small."""

import torch
from contract_cases import DatasetCase
from dataset_files import build_dataset, write_cifar, write_cifar10
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.transforms import functional as TF

from mammoth_compiled import load_runner, train
from mammoth_compiled.datasets.download import archive_hint


def write_files(source, num_classes):
    return lambda root, monkeypatch: write_cifar(source, num_classes, root, monkeypatch, 2, 1)


CASES = {
    f"seq-cifar{num_classes}-224": DatasetCase(
        num_tasks=num_tasks,
        classes_per_task=num_classes // num_tasks,
        input_shape=(3, 224, 224),
        stored_size=(32, 32),
        train_per_class=2,
        test_per_class=1,
        write_files=write_files(source, num_classes),
        hint=archive_hint(source.url, source.tgz_md5),
    )
    for source, num_classes, num_tasks in ((CIFAR10, 10, 5), (CIFAR100, 100, 10))
}


def test_images_are_enlarged_like_pillow_does(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    dataset = build_dataset("seq-cifar10-224", tmp_path)
    _, loader = dataset.meta_get_data_loaders()
    split = loader.dataset
    split.data = torch.randint(256, split.data.shape, dtype=torch.uint8).numpy()
    inputs, _, not_aug = next(iter(loader))
    image, _, plain = split[3]
    assert torch.equal(not_aug[3], plain)
    # The batched filter is within one level of Pillow's.
    assert (inputs[3] - image).abs().max() <= 1.01 / 255 / min(dataset.STD)
    normalize = dataset.get_normalization_transform()
    enlarged = TF.resize(plain, [224, 224], antialias=True)
    assert torch.allclose(normalize(plain), TF.normalize(enlarged, dataset.MEAN, dataset.STD))


def test_the_buffer_stores_small_images_and_replays_large_ones(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)
    args = {"data_dir": str(tmp_path), "buffer_size": 10, "batch_size": 8, "compile": "off"}
    args |= {"backbone": "mnistmlp", "input_size": 3 * 224 * 224, "hidden_size": 4}
    model, dataset = load_runner("er", "seq-cifar10-224", {**args, "n_epochs": 1, "lr": 0.01})
    train(model, dataset)
    assert model.buffer.examples.shape == (10, 3, 32, 32)
    assert model.buffer.get_data(4, model.transform)[0].shape == (4, 3, 224, 224)
