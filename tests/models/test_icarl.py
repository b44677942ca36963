"""iCaRL: exemplars in the epochs, herding, and the nearest mean of exemplars."""

import pytest
import torch
from torch.nn import functional as F
from torchvision import transforms

from mammoth_compiled import load_runner
from mammoth_compiled.errors import ConfigError
from mammoth_compiled.registry import datasets


@pytest.fixture
def learned(tiny):
    """A model after its first task, with 5 exemplars of each of two classes, and its dataset."""
    model, dataset = load_runner("icarl", "seq-tiny", {"seed": 0, "buffer_size": 10})
    dataset.meta_get_data_loaders()
    model.begin_task(dataset)
    model.end_task(dataset)
    return model, dataset


def test_scores_are_distances_to_the_means_of_exemplars(learned):
    model, dataset = learned
    images, labels = model.buffer.get_all_data(transform=model.normalization_transform)
    assert labels.bincount(minlength=6).tolist() == [5, 5, 0, 0, 0, 0]
    model.net.eval()
    inputs = next(iter(dataset.test_loaders[0]))[0]
    with torch.no_grad():
        scores = model(inputs)
        mirrored = F.normalize(model.net(images.flip(-1), returnt="features"))
        features = (F.normalize(model.net(images, returnt="features")) + mirrored) / 2
        query = F.normalize(model.net(inputs, returnt="features"))
    for k in (0, 1):
        mean = F.normalize(features[labels == k].mean(0), dim=0)
        expected = -(query - mean).square().sum(1)
        torch.testing.assert_close(scores[:, k], expected, rtol=1e-4, atol=1e-5)
    assert torch.isneginf(scores[:, 2:]).all()


def test_epochs_contain_task_and_exemplars(learned, tiny):
    model, dataset = learned
    exemplars = model.buffer.get_all_data()[0]
    dataset.meta_get_data_loaders()
    own = dataset.train_loader.dataset.data
    model.begin_task(dataset)
    split = dataset.train_loader.dataset
    assert len(split) == 36 + 10
    assert torch.equal(torch.from_numpy(split.data[:36]), torch.from_numpy(own))
    stored = torch.from_numpy(split.data[36:]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(stored, exemplars)  # to the bit
    batches = torch.cat([labels for _, labels, _ in dataset.train_loader])
    assert batches.bincount().tolist() == [5, 5, 18, 18]
    # New exemplars are selected among the images of the task only.
    model.end_task(dataset)
    assert len(dataset.train_loader.dataset) == 36
    assert model.buffer.labels[: len(model.buffer)].bincount().tolist() == [2, 2, 2, 2]


def test_old_classes_keep_the_targets_of_the_teacher(learned):
    model, dataset = learned
    dataset.meta_get_data_loaders()
    model.net.eval()
    inputs, labels, _ = next(iter(dataset.train_loader))
    with torch.no_grad():
        model.net.classifier.bias -= 1.0
        logits, old = model.net(inputs), model.teacher(inputs)
    targets = F.one_hot(labels, 6).float()
    targets[:, :2] = old[:, :2].sigmoid()
    expected = F.binary_cross_entropy_with_logits(logits, targets)
    batch = type("Batch", (), {"inputs": inputs, "labels": labels})
    torch.testing.assert_close(model.training_loss(batch), expected)


def test_data_that_is_no_array_is_refused(tiny, run_tiny, monkeypatch):
    splits = tiny.Dataset.get_data_loaders

    def as_lists(self):
        train, test = splits(self)
        train.data = [image[:, : 8 - k % 2] for k, image in enumerate(train.data)]
        return train, test

    monkeypatch.setattr(tiny.Dataset, "get_data_loaders", as_lists)
    monkeypatch.setattr("mammoth_compiled.datasets.base.check_first_item", lambda *_: None)
    message = r"'icarl' trains on stored images .* 'seq-tiny' has other data"
    with pytest.raises(ConfigError, match=message):
        run_tiny("icarl", buffer_size=12)


def test_exemplars_have_the_labels_of_the_run(run_tiny):
    model, _, _ = run_tiny("icarl", buffer_size=12, noise_rate=0.4)
    assert model.buffer.labels.bincount().tolist() == [2] * 6
    assert (model.buffer.labels != model.buffer.true_labels).any()


def test_images_are_stored_at_their_own_size(tiny, run_tiny):
    enlarge = transforms.Resize(8)

    class Small(tiny.Dataset):
        TRANSFORM = transforms.Compose([enlarge, *tiny.Dataset.TRANSFORM.transforms])
        TEST_TRANSFORM = TRANSFORM

        def get_data_loaders(self):
            return tuple(
                tiny.Split(*tiny.images(count, size=4, seed=seed), self.TRANSFORM)
                for seed, count in ((1, 18), (2, 5))
            )

        @classmethod
        def get_normalization_transform(cls):
            return transforms.Compose([enlarge, transforms.Normalize(cls.MEAN, cls.STD)])

    datasets.register("seq-small")(Small)
    model, _, results = run_tiny("icarl", "seq-small", buffer_size=12)
    assert model.buffer.examples.shape == (12, 3, 4, 4)
    assert results.train_images == [36, 48, 48]
