"""Properties of every registered dataset, on small files in the format of its source."""

from math import prod

import pytest
import torch
from contract_cases import case_of
from dataset_files import build_dataset, disable_network
from torchvision import transforms

from mammoth_compiled import load_runner, train
from mammoth_compiled.errors import ConfigError, DataError
from mammoth_compiled.registry import backbones, datasets, models

each_dataset = pytest.mark.parametrize("name", list(datasets))
each_with_files = pytest.mark.parametrize(
    "name", [name for name in datasets if case_of(datasets[name]).write_files is not None]
)

each_download = pytest.mark.parametrize(
    "name",
    [
        name
        for name in datasets
        if case_of(datasets[name]).write_files and case_of(datasets[name]).is_downloaded
    ],
)


@pytest.fixture
def case(name):
    return case_of(datasets[name])


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Decoded images are deleted with the other files of a test."""
    monkeypatch.setenv("MAMMOTH_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def files(case, tmp_path, monkeypatch):
    """The folder of the dataset's files."""
    root = tmp_path / "files"
    if case.write_files is not None:
        case.write_files(root, monkeypatch)
    return root


@pytest.fixture
def dataset(name, case, files):
    """The dataset, with small files."""
    return build_dataset(name, files, **case.arguments)


@pytest.fixture
def buildable(case, request):
    """The arguments that the dataset cannot be built without."""
    if not case.needs_files:
        return case.arguments
    return {**case.arguments, "data_dir": str(request.getfixturevalue("files"))}


@each_dataset
def test_tasks_classes_and_shapes(dataset, name, case):
    channels, *size = case.input_shape
    stored_shape = (channels, *(case.stored_size or size))
    assert (name, case.setting) == (dataset.NAME, dataset.SETTING)
    assert (case.num_tasks, case.num_classes) == (dataset.N_TASKS, dataset.N_CLASSES)
    assert dataset.input_shape() == case.input_shape
    for task, (first, end) in enumerate(case.tasks):
        assert dataset.get_offsets(task) == (first, end)
        for loader, per_class in zip(
            dataset.meta_get_data_loaders(),
            (case.train_per_class, case.test_per_class),
            strict=True,
        ):
            labels = torch.as_tensor(loader.dataset.targets)
            counts = labels.bincount(minlength=end)[first:].tolist()
            assert counts == [per_class] * (end - first)
            assert loader.fallback_reason is None
            inputs, _, not_aug = next(iter(loader))
            assert inputs.shape[1:] == case.input_shape
            assert not_aug.shape[1:] == stored_shape
            assert torch.isfinite(inputs).all()
            assert ((not_aug >= 0) & (not_aug <= 1)).all()
    info = dataset.info()
    assert len(info.class_names) == len(set(info.class_names)) == case.num_classes
    assert len(info.mean) == len(info.std) == case.input_shape[0]
    assert info.classes_seen == tuple(range(case.num_classes))


@each_with_files
def test_pixels_are_those_of_the_files_under_the_transform(dataset):
    dataset.meta_get_data_loaders()
    inputs, labels, not_aug = next(iter(dataset.test_loaders[0]))
    values = (labels % 10 * 10 + 5).float() / 255
    centers = [
        images[:, :, images.shape[2] // 2, images.shape[3] // 2] for images in (inputs, not_aug)
    ]
    mean, std = torch.tensor(dataset.MEAN), torch.tensor(dataset.STD)
    assert torch.equal(centers[1], values[:, None].expand(-1, inputs.shape[1]))
    assert torch.allclose(centers[0], (values[:, None] - mean) / std, atol=1e-6)


@each_dataset
def test_loader_yields_the_items_of_the_dataset(dataset):
    _, test_loader = dataset.meta_get_data_loaders()
    inputs, labels, not_aug = next(iter(test_loader))
    for i in (0, 1, len(labels) - 1):
        image, label, plain = test_loader.dataset[i]
        assert torch.equal(inputs[i], image)
        assert labels[i] == label
        assert torch.equal(not_aug[i], plain)


@each_dataset
def test_replay_transform_is_the_training_transform(dataset):
    steps = dataset.get_transform().transforms
    assert isinstance(steps[0], transforms.ToPILImage)
    assert steps[1] is dataset.TRANSFORM


@each_dataset
def test_default_backbone_is_registered_and_fits(name, case, buildable):
    assert datasets[name].target.get_backbone() in backbones
    model, _ = load_runner("sgd", name, buildable)
    images = torch.rand(2, *case.input_shape)
    assert model.net(images).shape == (2, case.num_classes)


@each_dataset
@pytest.mark.parametrize("model", list(models))
def test_every_model_loads_with_default_arguments(name, case, buildable, model):
    required = {} if case.has_model_defaults else dict(models[model].target.EXAMPLE_ARGS)
    if "buffer_size" in required:  # an image of each class, a batch
        required["buffer_size"] = max(required["buffer_size"], 200, 2 * case.num_classes)
    args = {**buildable, **required, "backbone": "mnistmlp", "input_size": prod(case.input_shape)}
    args["hidden_size"] = 4
    own = models[model].target.EXAMPLE_ARGS
    if "backbone" in own:  # of its own kind: here a transformer on four patches
        args = {**buildable, **own, "patch_size": case.input_shape[1] // 2}
    if case.setting not in models[model].target.COMPATIBILITY:
        with pytest.raises(ConfigError, match=f"dataset '{name}' is {case.setting}"):
            load_runner(model, name, args)
        return
    loaded, dataset = load_runner(model, name, args)
    assert loaded.args.lr > 0
    assert loaded.args.batch_size >= 1
    assert loaded.num_classes == dataset.N_CLASSES


@each_dataset
def test_augmentation_is_that_of_the_literature(dataset, case):
    kinds = {type(step) for step in getattr(dataset.TRANSFORM, "transforms", [dataset.TRANSFORM])}
    is_augmented = {transforms.RandomCrop, transforms.RandomHorizontalFlip} <= kinds
    assert is_augmented == case.is_augmented


@each_download
def test_missing_data_without_a_network_is_reported(tmp_path, monkeypatch, name, case):
    case.write_files(tmp_path / "elsewhere", monkeypatch)
    disable_network(monkeypatch)
    root = tmp_path / "empty"
    with pytest.raises(DataError) as caught:
        build_dataset(name, root, **case.arguments).meta_get_data_loaders()
    message = str(caught.value)
    assert message.startswith(f"{name}: the data is not in {root}")
    assert "the download failed" in message
    assert "Put the files there or give --data_dir DIR" in message
    assert message.endswith(case.hint or "give --data_dir DIR.")
    assert "\n" not in message
    assert not [path for path in root.rglob("*") if path.is_file()]


@each_with_files
def test_trains_on_files(dataset, name, case, files):
    args = {"data_dir": str(files), "n_epochs": 1, "batch_size": 8, "compile": "off", "seed": 0}
    args |= {**case.arguments, "hidden_size": 20}
    args |= {"backbone": "mnistmlp", "input_size": prod(case.input_shape), "lr": 0.05}
    results = train(*load_runner("sgd", name, args))
    assert len(results.class_il) == case.num_tasks
