"""A program in the style of Mammoth Lite, from which it differs only in the import below.

It defines a dataset (PIL images, torchvision transforms), a backbone, and three methods that work
like published ones: replay from a buffer, distillation from a copy of the network after each task,
and exemplars added to the training data at the start of a task.
"""

from copy import deepcopy

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision.transforms as T
from PIL import Image

from mammoth_compiled import (
    Buffer,
    ContinualDataset,
    ContinualModel,
    MammothBackbone,
    MammothDataset,
    ReturnTypes,
    add_rehearsal_args,
    base_path,
    get_avail_args,
    get_backbone_names,
    get_dataset_names,
    get_device,
    get_model_names,
    load_runner,
    register_backbone,
    register_dataset,
    register_model,
    train,
)


def draw_stripes(n, seed):
    """Returns striped images: the class sets direction and color; everything else is noise."""
    rng = np.random.RandomState(seed)
    labels = np.arange(n) % 6
    rows, columns = np.mgrid[0:12, 0:12]
    images = rng.randint(0, 60, (n, 12, 12, 3))
    for i, label in enumerate(labels):
        axis = rows if label % 2 == 0 else columns
        images[i, (axis // 2) % 2 == 0, label // 2] += 160
    return images.astype(np.uint8), labels


class Stripes(MammothDataset):
    def __init__(self, train=True, transform=None):
        self.data, self.targets = draw_stripes(240 if train else 60, seed=int(train))
        self.transform = transform

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        image, target = self.data[index], self.targets[index]
        image = Image.fromarray(image)
        not_aug_image = self.not_aug_transform(image.copy())
        if self.transform is not None:
            image = self.transform(image)
        return image, target, not_aug_image


@register_dataset(name="seq_stripes")
class SequentialStripes(ContinualDataset):
    NAME = "seq-stripes"
    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 3
    N_CLASSES = 6
    SIZE = (12, 12)
    MEAN, STD = (0.3, 0.3, 0.3), (0.3, 0.3, 0.3)
    TRANSFORM = T.Compose(
        [
            T.RandomCrop(12, padding=1),
            T.RandomHorizontalFlip(),
            T.ToTensor(),
            T.Normalize(MEAN, STD),
        ]
    )
    TEST_TRANSFORM = T.Compose([T.ToTensor(), T.Normalize(MEAN, STD)])

    def get_data_loaders(self):
        train_set = Stripes(train=True, transform=self.TRANSFORM)
        test_set = Stripes(train=False, transform=self.TEST_TRANSFORM)
        return train_set, test_set

    @staticmethod
    def get_backbone():
        return "stripes_net"


class StripesNet(MammothBackbone):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.classifier = nn.Linear(2 * width * 9, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        features = x.view(x.size(0), -1)
        logits = self.classifier(features)
        if returnt == "out":
            return logits
        elif returnt == ReturnTypes.FEATURES:
            return features
        elif returnt == "both":
            return logits, features
        raise NotImplementedError(returnt)


@register_backbone(name="stripes_net")
def stripes_net(num_classes):
    return StripesNet(num_classes)


@register_model(name="my_replay")
class MyReplay(ContinualModel):
    """Rehearsal with a buffer."""

    COMPATIBILITY = ["class-il", "task-il"]  # noqa: RUF012

    @staticmethod
    def get_parser(parser):
        add_rehearsal_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer = Buffer(self.args.buffer_size)

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        n = inputs.shape[0]
        self.opt.zero_grad()
        if not self.buffer.is_empty():
            old_inputs, old_labels = self.buffer.get_data(
                self.args.minibatch_size, transform=self.transform, device=self.device
            )
            inputs, labels = torch.cat((inputs, old_inputs)), torch.cat((labels, old_labels))
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        self.buffer.add_data(examples=not_aug_inputs, labels=labels[:n])
        return loss.item()


@register_model(name="my_distillation")
class MyDistillation(ContinualModel):
    """Learning without forgetting: the previous network is the teacher of the current one."""

    @staticmethod
    def get_parser(parser):
        parser.add_argument("--penalty", type=float, default=1.0, help="Weight of distillation.")
        parser.add_argument("--temperature", type=float, default=2.0, help="Of the softmax.")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.teacher = None
        self.tasks_learnt = 0

    def end_task(self, dataset):
        self.teacher = deepcopy(self.net).eval()
        for parameter in self.teacher.parameters():
            parameter.requires_grad = False
        self.tasks_learnt += 1

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        logits, _ = self.net(inputs, returnt="both")
        loss = self.loss(logits, labels)
        if self.teacher is not None:
            with torch.no_grad():
                targets = self.teacher(inputs)
            first_new = 2 * self.tasks_learnt
            t = self.args.temperature
            loss = loss + self.args.penalty * F.kl_div(
                F.log_softmax(logits[:, :first_new] / t, 1),
                F.softmax(targets[:, :first_new] / t, 1),
                reduction="batchmean",
            )
        loss.backward()
        self.opt.step()
        self.pbar_suffix["teacher"] = self.teacher is not None
        return loss.item()


@register_model(name="my_exemplars")
class MyExemplars(ContinualModel):
    """Keeps images near each class mean for training and classifies by the nearest mean."""

    @staticmethod
    def get_parser(parser):
        parser.add_argument("--per_class", type=int, required=True)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.exemplars = {}
        self.class_means = {}
        self.images_per_task = []

    def begin_task(self, dataset):
        own = dataset.train_loader.dataset
        if self.exemplars:
            images = np.concatenate(list(self.exemplars.values()))
            labels = np.repeat(list(self.exemplars), [len(v) for v in self.exemplars.values()])
            own.data = np.concatenate([own.data, images])
            own.targets = np.concatenate([own.targets, labels])
        self.images_per_task.append(len(own))

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        loss = self.loss(self.net(inputs), labels)
        loss.backward()
        self.opt.step()
        return loss.item()

    @torch.no_grad()
    def end_task(self, dataset):
        self.net.eval()
        own = dataset.train_loader.dataset
        for label in range(*dataset.get_offsets()):
            images = own.data[own.targets == label]
            batch = torch.stack([dataset.TEST_TRANSFORM(Image.fromarray(i)) for i in images])
            features = F.normalize(self.net.features(batch.to(self.device)))
            nearest = (features - features.mean(0)).norm(dim=1).argsort()[: self.args.per_class]
            self.exemplars[label] = images[nearest.cpu().numpy()]
        for label, images in self.exemplars.items():
            batch = torch.stack([dataset.TEST_TRANSFORM(Image.fromarray(i)) for i in images])
            self.class_means[label] = F.normalize(self.net.features(batch.to(self.device))).mean(0)
        self.net.train()

    def forward(self, x):
        features = F.normalize(self.net.features(x))
        means = torch.stack([self.class_means[label] for label in sorted(self.class_means)])
        scores = -torch.cdist(features, means)
        missing = self.num_classes - len(means)
        return F.pad(scores, (0, missing), value=-float("inf"))

    def __repr__(self):
        return f"MyExemplars({len(self.exemplars)} classes)"


COMMON = {"lr": 0.05, "batch_size": 16, "n_epochs": 6}
METHODS = {
    "my-replay": {"buffer_size": 60, "minibatch_size": 16},
    "my-distillation": {},
    "my-exemplars": {"per_class": 8},
}


def run(method, **more):
    model, dataset = load_runner(method, "seq-stripes", {**COMMON, **METHODS[method], **more})
    print(f"{method}: {type(model.net).__name__}, {model.net.get_params().numel()} parameters")
    return model, dataset, train(model, dataset)


if __name__ == "__main__":
    assert "my-replay" in get_model_names(names_only=True)
    assert "seq-stripes" in get_dataset_names()
    assert "stripes-net" in get_backbone_names()
    required, optional = get_avail_args()
    print(
        f"device {get_device()}, data in {base_path()}, {len(required) + len(optional)} arguments"
    )
    for name in METHODS:
        run(name)
