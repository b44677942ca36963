"""Rebuilds the model of a checkpoint without its data, for export."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from torchvision import transforms

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.core.state import load_weights, restore_model
from mammoth_compiled.types import DatasetInfo


def rebuild_model(kind: Any, checkpoint: Mapping[str, Any], backbone: MammothBackbone) -> Any:
    """Returns the model of a checkpoint on the CPU, in the state in which it was saved.

    Its dataset knows its tasks and the form of its images, but has none.

    Args:
        kind: The class of the model.
        checkpoint: The content of the file.
        backbone: The backbone of the run, on the CPU, with any weights.

    Raises:
        CheckpointError: If the state does not fit the model.
        RuntimeError: If the weights do not fit its network.
    """
    info = DatasetInfo.from_dict(checkpoint["data"])
    args = Namespace(**{**checkpoint["args"], "device": "cpu", "num_classes": info.num_classes})
    dataset = _dataset_of(info, args)
    model = kind(backbone, dataset.get_loss(), args, dataset.get_transform(), dataset)
    load_weights(model.net, checkpoint["net"])
    restore_model(model, checkpoint["model"]["state"])
    model._task_ended = "within" not in checkpoint
    return model


class _SavedDataset(ContinualDataset):
    """The facts of a dataset in a checkpoint."""

    saved: DatasetInfo

    def input_shape(self) -> tuple[int, int, int]:
        """Returns the shape of an image, (C, H, W)."""
        return self.saved.input_shape

    def info(self) -> DatasetInfo:
        """Returns the facts."""
        return self.saved


def _dataset_of(info: DatasetInfo, args: Namespace) -> ContinualDataset:
    """Returns the dataset of a checkpoint in the task in which it was saved."""
    ends = [end for _, end in info.tasks]
    is_split = [first for first, _ in info.tasks] == [0, *ends[:-1]]
    sizes = [end - first for first, end in info.tasks]
    attributes: dict[str, Any] = {
        "NAME": info.name,
        "SETTING": "class-il" if is_split else "domain-il",
        "N_TASKS": len(info.tasks),
        "N_CLASSES_PER_TASK": sizes if is_split else info.num_classes,
        "N_CLASSES": info.num_classes,
        "SIZE": info.input_shape[1:],
        "TRANSFORM": transforms.ToTensor(),
        "CLASS_NAMES": info.class_names,
        "saved": info,
    }
    if info.mean:
        attributes |= {"MEAN": info.mean, "STD": info.std}
    kind = type("SavedDataset", (_SavedDataset,), attributes)
    # Tasks and classes are as the other arguments left them.
    dataset: ContinualDataset = kind(Namespace(device="cpu", joint=vars(args).get("joint", False)))
    dataset.c_task = info.tasks_seen - 1
    return dataset
