"""A program in Mammoth's manner: run by Mammoth Lite, by this package, and by it without compiling.

    python benchmarks/lite.py [--peer DIR] [--images 60000] [--pairs 2] [--models sgd own-er]

DIR contains `mammoth_lite/` of a checkout of Mammoth Lite; without it the other runs are compared.
The program defines a dataset whose items go through PIL transforms, a backbone, and ER with an
`observe` of its own, and calls `load_runner` and `train` with no arguments that Mammoth Lite does
not have: Fashion-MNIST as 32x32x3, five tasks of two classes, batch size 32, one epoch, evaluation
after each task. Every run is a new process, and its seconds include what `train` compiles or loads.
`first` is the first run of a machine, with empty caches; those of `ours` have its compiled code.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

MODELS = ("sgd", "own-er")
BATCH = 32
BUFFER = 500


def program(lib, model, arguments, arrays):
    """Defines dataset, backbone and method with the names of `lib`, and trains.

    Returns:
        Seconds of `train`, and what was printed.
    """
    import torch
    from PIL import Image
    from torch import nn
    from torch.nn import functional as F
    from torchvision import transforms as T

    mean, std = (0.219,) * 3, (0.332,) * 3

    class Images(lib.MammothDataset):
        def __init__(self, part, transform):
            self.data, self.targets = arrays[f"{part}_images"], arrays[f"{part}_labels"]
            self.transform = transform

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            image = Image.fromarray(self.data[index])
            plain = self.not_aug_transform(image.copy())
            return self.transform(image), self.targets[index], plain

    @lib.register_dataset(name="seq-clothes")
    class Clothes(lib.ContinualDataset):
        NAME, SETTING = "seq-clothes", "class-il"
        N_TASKS, N_CLASSES_PER_TASK, SIZE = 5, 2, (32, 32)
        MEAN, STD = mean, std
        TEST_TRANSFORM = T.Compose([T.ToTensor(), T.Normalize(mean, std)])
        TRANSFORM = T.Compose(
            [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *TEST_TRANSFORM.transforms]
        )

        def get_data_loaders(self):
            return Images("train", self.TRANSFORM), Images("test", self.TEST_TRANSFORM)

        @staticmethod
        def get_backbone():
            return "two-convolutions"

    @lib.register_backbone(name="two-convolutions")
    class TwoConvolutions(lib.MammothBackbone):
        def __init__(self, num_classes):
            super().__init__()
            self.first = nn.Conv2d(3, 32, 3, padding=1)
            self.second = nn.Conv2d(32, 64, 3, padding=1)
            self.classifier = nn.Linear(64 * 8 * 8, num_classes)

        def forward(self, x, returnt="out"):
            x = F.max_pool2d(F.relu(self.first(x)), 2)
            x = F.max_pool2d(F.relu(self.second(x)), 2)
            features = x.flatten(1)
            logits = self.classifier(features)
            return {"out": logits, "features": features, "both": (logits, features)}[returnt]

    @lib.register_model("own-er")
    class OwnER(lib.ContinualModel):
        COMPATIBILITY = ("class-il", "task-il")

        @staticmethod
        def get_parser(parser):
            lib.add_rehearsal_args(parser)
            return parser

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.buffer = lib.Buffer(self.args.buffer_size)

        def observe(self, inputs, labels, not_aug_inputs, epoch=None):
            self.opt.zero_grad()
            loss = self.loss(self.net(inputs), labels)
            if not self.buffer.is_empty():
                images, targets = self.buffer.get_data(
                    self.args.minibatch_size, transform=self.transform, device=self.device
                )
                loss = loss + self.loss(self.net(images), targets)
            loss.backward()
            self.opt.step()
            self.buffer.add_data(not_aug_inputs, labels)
            return loss.item()

    torch.manual_seed(0)
    np.random.seed(0)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runner = lib.load_runner(model, "seq-clothes", arguments)
        start = time.perf_counter()
        lib.train(*runner)
        seconds = time.perf_counter() - start
    return seconds, printed.getvalue()


def child(name, model, options, data, peer):
    """Runs the program and prints its seconds and the last accuracies."""
    if peer:
        sys.path.insert(0, peer)
    lib = importlib.import_module(name)
    arguments = {"lr": 0.03, "n_epochs": 1, "batch_size": BATCH, "backbone": "two-convolutions"}
    if model == "own-er":
        arguments |= {"buffer_size": BUFFER, "minibatch_size": BATCH}
    seconds, printed = program(lib, model, arguments | json.loads(options), dict(np.load(data)))
    lines = [line for line in printed.splitlines() if "Class-IL" in line]
    decision = [line for line in printed.splitlines() if line.startswith("compile:")]
    print(json.dumps({"seconds": seconds, "accuracy": lines[-1], "compile": decision[:1]}))


def save_arrays(path, num_images):
    """Writes images of Fashion-MNIST and their labels, as many of each class; a sixth for tests."""
    from mammoth_compiled.datasets.fashion_mnist import SequentialFashionMNIST
    from mammoth_compiled.runner import load_runner

    arguments = {"backbone": "cnn", "device": "cpu", "compile": "off", "out": "off"}
    _, dataset = load_runner("sgd", SequentialFashionMNIST.NAME, arguments)
    arrays = {}
    for part, found in zip(("train", "test"), dataset.get_data_loaders(), strict=True):
        count = num_images // (10 if part == "train" else 60)
        rows = [np.flatnonzero(found.targets == k)[:count] for k in range(10)]
        keep = np.sort(np.concatenate(rows))
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = found.data[keep], found.targets[keep]
    np.savez(path, **arrays)
    return len(arrays["train_labels"])


def run(kind, model, data, peer, cache):
    """Runs the program in a new process; returns what it printed."""
    name = "mammoth_lite" if kind == "mammoth_lite" else "mammoth_compiled"
    options = json.dumps({"compile": "off"} if kind == "eager" else {})
    caches = {"TORCHINDUCTOR_CACHE_DIR": cache, "MAMMOTH_CACHE_DIR": cache, "TMPDIR": cache}
    command = [sys.executable, __file__, "--child", name, model, options, str(data), peer]
    completed = subprocess.run(
        command,
        env={**os.environ, **caches},
        cwd=cache,
        capture_output=True,
        text=True,
        check=False,
    )
    if completed.returncode:
        raise RuntimeError(completed.stderr)
    found = json.loads(completed.stdout.splitlines()[-1])
    print(f"  {model} {kind}: {found['seconds']:.1f} s {found['compile']}", flush=True)
    return found


def measure(model, data, peer, pairs):
    """Returns the seconds of a model by kind of run, and their ratios."""
    from common import ratio, spread

    kinds = ["ours", "eager", *(["mammoth_lite"] if peer else [])]
    runs = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as cache:
        first = run("first", model, data, peer, cache)
        if not first["compile"] or "off" in first["compile"][0]:
            # Too short to compile the first time; `ours` shows what `auto` then does.
            print(f"  {model}: the first run is not compiled")
        for _ in range(pairs):
            for kind in kinds:
                runs[kind].append(run(kind, model, data, peer, cache))
    seconds = {kind: [found["seconds"] for found in all_] for kind, all_ in runs.items()}
    slow = kinds[-1]
    return {
        "seconds": {kind: spread(values) for kind, values in seconds.items()},
        "first_s": first["seconds"],
        "speed_up_over": slow,
        "speed_up": ratio(seconds, slow, "ours"),
        "speed_up_over_eager": ratio(seconds, "eager", "ours"),
        "first_speed_up": spread(seconds[slow])["median"] / first["seconds"],
        "accuracy": {kind: all_[0]["accuracy"] for kind, all_ in runs.items()},
        "compile": {"first": first["compile"], "ours": runs["ours"][0]["compile"]},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default="", metavar="DIR")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(*args.child)
        return
    from common import write_results

    results = {}
    peer = str(Path(args.peer).resolve()) if args.peer else ""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "images.npz"
        images = save_arrays(data, args.images)
        for model in args.models:
            row = results[model] = {"images": images, **measure(model, data, peer, args.pairs)}
            print(
                f"{model}: {row['speed_up']['median']:.2f}x over {row['speed_up_over']}, the first "
                f"time {row['first_speed_up']:.2f}x; {row['speed_up_over_eager']['median']:.2f}x "
                "over --compile off"
            )
            path = write_results("lite", {"models": results})
    print("written:", path)


if __name__ == "__main__":
    main()
