"""A model, a dataset and helpers in Mammoth's style; their imports are renamed before they run."""

from copy import deepcopy

import numpy as np
import torch
from backbone import MammothBackbone, get_backbone
from datasets import get_dataset
from datasets.utils import set_default_from_args
from datasets.utils.continual_dataset import ContinualDataset, store_masked_loaders
from models.gem import overwrite_grad, store_grad
from models.utils.continual_model import ContinualModel
from torchvision import transforms
from utils import binary_to_boolean_type
from utils.args import *  # noqa: F403
from utils.augmentations import cutmix_data
from utils.batch_norm import bn_track_stats
from utils.buffer import Buffer, fill_buffer, icarl_replay


class PatternSplit(torch.utils.data.Dataset):
    def __init__(self, train, transform):
        rng = np.random.default_rng(int(train))
        self.targets = np.arange(24) % 4
        noise = rng.integers(0, 64, (24, 8, 8, 3))
        self.data = (noise + 48 * self.targets[:, None, None, None]).astype(np.uint8)
        self.transform = transform
        self.not_aug_transform = transforms.ToTensor()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        image = transforms.functional.to_pil_image(self.data[index])
        return self.transform(image), self.targets[index], self.not_aug_transform(image)


class Patterns(ContinualDataset):
    NAME = "seq-patterns"
    SETTING = "class-il"
    N_CLASSES_PER_TASK = 2
    N_TASKS = 2
    SIZE = (8, 8)
    MEAN, STD = (0.4, 0.4, 0.4), (0.3, 0.3, 0.3)
    TRANSFORM = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def get_data_loaders(self):
        train, test = (PatternSplit(flag, self.TRANSFORM) for flag in (True, False))
        return store_masked_loaders(train, test, self)

    @set_default_from_args("backbone")
    def get_backbone():
        return "tiny-net"

    @set_default_from_args("n_epochs")
    def get_epochs(self):
        return 2

    @set_default_from_args("batch_size")
    def get_batch_size(self):
        return 6


class Everything(ContinualModel):
    """Calls what Mammoth's models call; trains by replay and distillation."""

    NAME = "every_thing"
    COMPATIBILITY = ["class-il", "task-il"]  # noqa: RUF012

    @staticmethod
    def get_parser(parser):
        add_rehearsal_args(parser)  # noqa: F405
        parser.set_defaults(lr=0.05)
        parser.add_argument("--use_teacher", type=binary_to_boolean_type, default=1)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset=None):
        super().__init__(backbone, loss, args, transform, dataset=dataset)
        self.buffer = Buffer(self.args.buffer_size)
        self.everything = Buffer(-1, sample_selection_strategy="unlimited")
        self.dataset = get_dataset(args)
        self.spare = get_backbone(args).to(self.device)
        self.old_net = None
        self.grad_dims = [p.numel() for p in self.net.parameters()]
        self.log = []

    def begin_task(self, dataset):
        self.had_momentum = len(self.opt.state) > 0
        icarl_replay(self, dataset, val_set_split=0.5)
        self.log.append((self.current_task, len(dataset.train_loader.dataset)))

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        assert isinstance(self.net, MammothBackbone)
        present = labels.unique()
        with bn_track_stats(self, self.current_task == 0):
            outputs = self.net.forward(inputs)[:, : self.n_seen_classes]
        self.opt.zero_grad()
        loss = self.loss(outputs, labels)
        if self.args.use_teacher and self.current_task > 0:
            old = self.old_net(inputs)[:, : self.n_past_classes]
            loss += (outputs[:, : self.n_past_classes] - old.detach()).pow(2).mean()
        loss.backward()
        grads = torch.zeros(sum(self.grad_dims))
        store_grad(self.net.parameters, grads, self.grad_dims)
        overwrite_grad(self.net.parameters, 0.5 * grads, self.grad_dims)
        assert torch.equal(self.net.get_grads(), 0.5 * grads)
        self.opt.step()
        mixed, _, _, share = cutmix_data(inputs, labels, force=True)
        assert mixed.shape == inputs.shape
        assert 0 <= share <= 1
        self.everything.add_data(not_aug_inputs, labels=labels, task_labels=torch.ones(99))
        self.iterations = (self.task_iteration, len(present))
        return loss.item()

    def end_task(self, dataset):
        accs = dataset.evaluate(self, dataset)
        assert len(accs[0]) == len(accs[1]) == self.current_task + 1
        self.old_net = deepcopy(self.net.eval())
        fill_buffer(self.buffer, dataset, self.current_task, net=self.net, use_herding=True)
        self.net.train()

    def forward(self, x):
        self.task_in_eval = self.current_task
        return super().forward(x)

    def end_eval(self, dataset, accs):
        self.log.append((self.current_task, len(accs[0])))
