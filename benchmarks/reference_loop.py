"""A plain continual-learning loop in the style of Mammoth Lite: the baseline of the benchmarks.

Images go one by one through PIL transforms in a DataLoader, the network runs in eager mode, the
loss is read in every step, the buffer is filled and read image by image, and all tasks seen are
evaluated after each task at the training batch size.
"""

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms


class ListBuffer:
    """Reservoir sampling one image at a time; every replayed image goes through PIL transforms."""

    def __init__(self, size):
        self.size, self.seen, self.rows = size, 0, {}

    def add(self, images, **others):
        for i in range(len(images)):
            slot = self.seen if self.seen < self.size else np.random.randint(0, self.seen + 1)
            self.seen += 1
            if slot < self.size:
                row = {name: value[i].clone() for name, value in others.items()}
                self.rows[slot] = {"image": images[i].clone(), **row}

    def get(self, count, transform, device):
        available = min(self.seen, self.size)
        chosen = np.random.choice(available, min(count, available), replace=False)
        rows = [self.rows[i] for i in chosen]
        images = torch.stack([transform(row["image"]) for row in rows]).to(device)
        names = [name for name in rows[0] if name != "image"]
        return images, {k: torch.stack([row[k] for row in rows]).to(device) for k in names}


def replay_transform(dataset):
    return transforms.Compose([transforms.ToPILImage(), dataset.TRANSFORM])


class Method:
    """SGD, ER or DER++ as one eager step."""

    def __init__(self, name, net, dataset, lr, buffer_size, batch, alpha=0.2, beta=0.5):
        self.name, self.net, self.batch = name, net, batch
        self.alpha, self.beta = alpha, beta
        self.optimizer = torch.optim.SGD(net.parameters(), lr=lr)
        self.buffer = ListBuffer(buffer_size) if name != "sgd" else None
        self.transform = replay_transform(dataset)

    def step(self, inputs, labels, originals):
        self.optimizer.zero_grad()
        replay = self.buffer is not None and self.buffer.seen > 0
        if self.name == "er" and replay:
            images, rows = self.buffer.get(self.batch, self.transform, inputs.device)
            inputs = torch.cat((inputs, images))
            loss = F.cross_entropy(self.net(inputs), torch.cat((labels, rows["labels"])))
        else:
            logits = self.net(inputs)
            loss = F.cross_entropy(logits, labels)
        if self.name == "derpp" and replay:
            images, rows = self.buffer.get(self.batch, self.transform, inputs.device)
            loss = loss + self.alpha * F.mse_loss(self.net(images), rows["logits"])
            images, rows = self.buffer.get(self.batch, self.transform, inputs.device)
            loss = loss + self.beta * F.cross_entropy(self.net(images), rows["labels"])
        loss.backward()
        self.optimizer.step()
        if self.name == "er":
            self.buffer.add(originals, labels=labels)
        elif self.name == "derpp":
            self.buffer.add(originals, labels=labels, logits=logits.detach())
        return loss.item()


@torch.no_grad()
def accuracies(net, loaders, classes_seen):
    net.eval()
    result = []
    for loader in loaders:
        correct = total = 0
        for inputs, labels, _ in loader:
            correct += (net(inputs)[:, :classes_seen].argmax(1) == labels).sum().item()
            total += len(labels)
        result.append(correct / total)
    net.train()
    return result


def run(method_name, net, dataset, lr, batch, buffer_size, workers, epochs=1):
    """Trains on every task; returns the final class-IL accuracy and the number of images."""
    dataset.reset()
    method = Method(method_name, net, dataset, lr, buffer_size, batch)
    tests, images = [], 0
    net.train()
    for _ in range(dataset.N_TASKS):
        train, test = (loader.dataset for loader in dataset.meta_get_data_loaders())
        loader = DataLoader(train, batch, shuffle=True, num_workers=workers)
        tests.append(DataLoader(test, batch, num_workers=workers))
        for _ in range(epochs):
            for inputs, labels, originals in loader:
                method.step(inputs, labels, originals)
                images += len(labels)
        final = accuracies(net, tests, dataset.get_offsets()[1])
    return sum(final) / len(final), images
