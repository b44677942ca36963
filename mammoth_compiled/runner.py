"""Builds the dataset, the backbone and the model of a run from their names."""

import inspect
import math
import warnings
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import torch

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.backbones.contract import probe
from mammoth_compiled.config import RunConfig, resolve
from mammoth_compiled.config.compatibility import check_setting
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.device import computes_bf16, get_device, set_seed
from mammoth_compiled.engine.compute import Compute
from mammoth_compiled.engine.whole_step import WholeStep
from mammoth_compiled.errors import ConfigError, ContractError, shorten
from mammoth_compiled.memory import check_fits, limited_allocations
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.registry import Entry, backbones, datasets, models
from mammoth_compiled.signatures import InputShape, Parameter


def load_runner(
    model: str, dataset: str, args: Mapping[str, Any] | None = None
) -> tuple[ContinualModel, ContinualDataset]:
    """Builds a model with its backbone, and its dataset.

    Args:
        model: Registered name of the method.
        dataset: Registered name of the dataset.
        args: Arguments by name, including those of the model, the backbone and the dataset.
            Missing arguments are taken from the best known setting of this model on this dataset,
            else from the dataset's defaults.

    Returns:
        The model and the dataset, for `train`.

    Raises:
        RegistryError: If a name is unknown; lists the valid ones.
        ConfigError: If an argument is unknown, missing, of the wrong type or out of range.
        ContractError: If the backbone violates the ReturnTypes contract.

    Example:
        >>> from mammoth_compiled import load_runner
        >>> model, dataset = load_runner("er", "seq-fmnist-mini", {"lr": 0.1, "device": "cpu"})
        >>> model.args.lr, model.args.buffer_size, dataset.N_TASKS
        (0.1, 500, 5)
    """
    if args is not None and not isinstance(args, Mapping):
        raise ConfigError(
            "load_runner: args must be a dictionary of arguments by name, got the "
            f"{type(args).__name__} {shorten(args)}"
        )
    return build(resolve(model, dataset, args or {}))


def build(args: Namespace) -> tuple[ContinualModel, ContinualDataset]:
    """Builds a model and a dataset from all arguments of a run; see `load_runner`."""
    config = RunConfig.from_namespace(args)
    if config.experiment.seed is not None:
        set_seed(config.experiment.seed)
    dataset = build_dataset(args)
    # User code finds the number of classes and the input shape in `self.args`.
    args.num_classes = dataset.N_CLASSES
    architecture = backbones[config.experiment.backbone or dataset.get_backbone()]
    _fill_input_shape(args, architecture, dataset)
    net = _build_backbone(args, architecture, dataset)
    device = get_device(config.compute.device)
    if config.compute.amp == "bf16" and not computes_bf16(device):
        warnings.warn(
            f"--amp bf16: {device} only emulates bfloat16, which is slower than --amp off",
            stacklevel=2,
        )
    compute = Compute(device, config.compute.amp)
    compute.attach(net)
    if config.compute.whole_step:
        compute.whole_step = WholeStep(compute)
    # Before the model is built, so that its optimizer and buffer are on the same device.
    net.to(device)
    if "buffer_size" not in {parameter.name for parameter in architecture.parameters}:
        _check_buffer(config, dataset)
    model = _build_model(args, config, net, dataset)
    model.compute = compute
    return model, dataset


def build_dataset(args: Namespace) -> ContinualDataset:
    """Builds the dataset from all arguments of a run."""
    source = datasets[args.dataset]
    dataset: ContinualDataset = source.target(args, **_options(args, source))
    return dataset


def _options(args: Namespace, entry: Entry) -> dict[str, Any]:
    """Returns the arguments that a dataset's or a backbone's signature asks for."""
    values = vars(args)
    return {parameter.name: values[parameter.name] for parameter in entry.parameters}


def _fill_input_shape(args: Namespace, entry: Entry, dataset: ContinualDataset) -> None:
    """Sets the backbone's arguments that depend on the input images and are not given.

    Where the dataset does not tell, the backbone's own default is used.

    Raises:
        ConfigError: If there is no default either.
    """
    shape = dataset.input_shape()
    for parameter in entry.parameters:
        if parameter.input_shape is None or vars(args)[parameter.name] is not None:
            continue
        value = parameter.default if shape is None else _shape_value(parameter, shape)
        if value is None and parameter.required:
            reason = "declares no SIZE" if shape is None else f"has {shape[1]}x{shape[2]} images"
            raise ConfigError(
                f"--{parameter.name} is required for backbone {entry.name!r}, because dataset "
                f"{dataset.NAME!r} {reason}"
            )
        setattr(args, parameter.name, value)


def _shape_value(parameter: Parameter, shape: tuple[int, int, int]) -> Any:
    """Returns the value of a parameter for images of shape [C, H, W]."""
    channels, height, width = shape
    flat = channels * height * width
    if parameter.input_shape is InputShape.CHANNELS:
        return channels
    # A default of C * H * W shows that the author means a flattened size, annotated or not.
    if parameter.input_shape is InputShape.FLAT or parameter.default == flat:
        return flat
    if parameter.is_list:
        return (height, width)
    return height if height == width else parameter.default


def _build_backbone(args: Namespace, entry: Entry, dataset: ContinualDataset) -> MammothBackbone:
    """Builds the backbone and checks it on the dataset's input shape.

    Raises:
        ContractError: If it cannot be built with its arguments, is not a `MammothBackbone`, or
            violates the ReturnTypes contract.
    """
    options = _options(args, entry)
    if "num_classes" in inspect.signature(entry.target).parameters:
        options["num_classes"] = dataset.N_CLASSES
    given = " ".join(f"--{name} {value}" for name, value in _options(args, entry).items())
    try:
        with limited_allocations(f"backbone {entry.name!r}", f"Choose a smaller one than {given}"):
            net = entry.target(**options)
    except ConfigError:  # is a ValueError too
        raise
    except (RuntimeError, ValueError) as error:  # torch's errors for invalid sizes
        raise ContractError(
            f"backbone {entry.name!r} ({entry.origin}) could not be built with {options}: {error}"
        ) from error
    if not isinstance(net, MammothBackbone):
        raise ContractError(
            f"backbone {entry.name!r} ({entry.origin}) returned a {type(net).__name__}; it must "
            "return a MammothBackbone"
        )
    shape = dataset.input_shape()
    if shape is not None:
        try:
            probe(net, shape, dataset.N_CLASSES)
        except ContractError as error:
            raise ContractError(f"backbone {entry.name!r} on {dataset.NAME!r}: {error}") from error
    return net


def _build_model(
    args: Namespace, config: RunConfig, net: MammothBackbone, dataset: ContinualDataset
) -> ContinualModel:
    """Builds the model and checks that it suits the dataset and the AMP mode.

    Raises:
        ConfigError: If it does not.
    """
    name = models[config.experiment.model].name
    target: Any = models[name].target
    model: ContinualModel = target(net, dataset.get_loss(), args, dataset.get_transform(), dataset)
    setting = dataset.stream_setting
    check_setting(name, dataset.NAME, setting, blurry=setting != dataset.SETTING)
    is_stream = dataset.SETTING == "general-continual" and not dataset.joint
    if is_stream and model.TRAINS_ON_STREAM and config.experiment.n_epochs > 1:
        raise ConfigError(
            f"--n_epochs {config.experiment.n_epochs}: dataset {dataset.NAME!r} is one pass over a "
            "stream: give --n_epochs 1, or --joint 1"
        )
    if config.compute.amp == "fp16" and type(model).observe is not ContinualModel.observe:
        raise ConfigError(
            f"--amp fp16 requires loss scaling, but model {name!r} overrides observe: use "
            "--amp bf16, or define training_loss instead of observe"
        )
    return model


def _check_buffer(config: RunConfig, dataset: ContinualDataset) -> None:
    """Checks that the images of a full replay buffer fit on the device.

    Raises:
        ConfigError: If they do not.
    """
    buffer_size, shape = config.extra.get("buffer_size"), dataset.input_shape()
    if isinstance(buffer_size, int) and shape is not None:
        image_bytes = math.prod(shape) * torch.float32.itemsize
        what = f"a buffer of {buffer_size:,} images"
        check_fits(buffer_size * image_bytes, what, "Lower --buffer_size", dataset.device)
