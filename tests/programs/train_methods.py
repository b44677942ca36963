"""Trains several methods on a small stream and saves what came out; runs alone or by torchrun.

python train_methods.py OUTPUT NAME [NAME ...]
"""

import sys
import warnings

import numpy as np
import torch
from torch import nn
from torchvision import transforms

from mammoth_compiled import (
    ContinualDataset,
    ContinualModel,
    MammothBackbone,
    load_runner,
    register_backbone,
    register_dataset,
    register_model,
    train,
)
from mammoth_compiled.datasets.arrays import ArrayDataset
from mammoth_compiled.distributed import rank, session
from mammoth_compiled.errors import MammothError


@register_dataset("seq-noise")
class Noise(ContinualDataset):
    """Noise with a pattern of the class, 21 images a class: the last of three batches is ragged."""

    SETTING, N_CLASSES_PER_TASK, N_TASKS, SIZE = "class-il", 2, 3, (8, 8)
    TRANSFORM = transforms.Compose([transforms.RandomCrop(8, padding=1), transforms.ToTensor()])
    TEST_TRANSFORM = transforms.ToTensor()
    MEAN, STD = (0.5,) * 3, (0.25,) * 3

    def get_data_loaders(self):
        generator = np.random.default_rng(0)
        labels = np.arange(126) % 6
        images = generator.integers(0, 100, (126, 8, 8, 3)) + 25 * labels[:, None, None, None]
        images = images.astype(np.uint8)
        return ArrayDataset(images, labels, self.TRANSFORM), ArrayDataset(
            images, labels, self.TEST_TRANSFORM
        )


class Net(MammothBackbone):
    def __init__(self, num_classes, norm):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), norm(8), nn.SiLU(), nn.Flatten())
        self.classifier = nn.Linear(288, num_classes)

    def forward(self, x, returnt="out"):
        features = self.body(x)
        logits = self.classifier(features)
        return {"out": logits, "features": features, "both": (logits, features)}[returnt]


@register_backbone("smooth-net")
def smooth_net(num_classes):
    return Net(num_classes, nn.Identity)


@register_backbone("norm-net")
def norm_net(num_classes):
    return Net(num_classes, nn.BatchNorm2d)


@register_model("drifts")
class Drifts(ContinualModel):
    """Changes its weights with something that is not averaged."""

    def training_loss(self, batch):
        return self.loss(self.net(batch.inputs), batch.labels)

    def after_backward(self, batch):
        self.net.classifier.bias.grad += batch.inputs.mean()


@register_model("own-observe")
class OwnObserve(ContinualModel):
    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        return 0.0


REPLAY = {"buffer_size": 24, "minibatch_size": 8}
COMMON = {"batch_size": 16, "lr": 0.1, "seed": 0, "compile": "off", "backbone": "smooth-net"}
RUNS = {
    "sgd": ("sgd", {"n_epochs": 2}),
    "momentum": ("sgd", {"optim_mom": 0.9, "clip_grad": 1.0}),
    "er": ("er", {**REPLAY, "n_epochs": 2}),
    "balanced": ("er", {**REPLAY, "buffer_policy": "class-balanced"}),
    "derpp": ("derpp", {**REPLAY, "alpha": 0.3, "beta": 0.5}),
    "agem": ("agem", REPLAY),
    "compiled": ("er", {**REPLAY, "compile": "on"}),
    "batch norm": ("er", {**REPLAY, "backbone": "norm-net"}),
    "synchronized": ("sgd", {"backbone": "norm-net", "sync_batchnorm": True}),
    "drifts": ("drifts", {}),
    "own observe": ("own-observe", {}),
    "odd batch": ("sgd", {"batch_size": 15}),
    "odd replay": ("er", {**REPLAY, "minibatch_size": 7}),
    "odd minutes": ("sgd", {"fitting_mode": "time", "n_minutes": 1}),
    "two tasks": ("derpp", {**REPLAY, "alpha": 0.3, "beta": 0.5, "savecheck": "task"}),
    "resumed": ("derpp", {**REPLAY, "alpha": 0.3, "beta": 0.5, "resume": True}),
}


def outcome(name, folder):
    """Returns the weights, the buffer, the accuracies and the loss of a run, or its error."""
    model_name, args = RUNS[name]
    if name in ("two tasks", "resumed"):
        args = {**args, "checkpoint_path": folder}
    if name == "two tasks":
        args = {**args, "stop_after": 2}
    try:
        model, dataset = load_runner(model_name, "seq-noise", {**COMMON, **args})
        results = train(model, dataset)
    except MammothError as error:
        return {"error": str(error)}
    buffer = getattr(model, "buffer", None)
    return {
        "net": model.net.state_dict(),
        "buffer": {} if buffer is None else buffer.serialize(),
        "class_il": results.class_il,
        "confusion": results.confusion,
        "loss": results.loss,
        "images": results.train_images,
    }


def main(output, *names):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    with session("cpu"):
        outcomes = {name: outcome(name, f"{output}.checkpoints") for name in names}
        torch.save(outcomes, f"{output}.{rank()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
