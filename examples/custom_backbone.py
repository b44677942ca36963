"""Backbones of your own: write them, check them, compare them, train one and ship it.

    python examples/custom_backbone.py                            # about half a minute on a CPU
    python examples/custom_backbone.py --backbone custom-resnet --width 32 --epochs 2
    python examples/custom_backbone.py --debug --export /tmp/my-bundle  # a few seconds

A backbone is a network with a head. Algorithms ask it for different things, and it answers by
`returnt`: "out" gives logits [B, K], "features" what the head reads [B, F], "both" the two as a
tuple. Whoever keeps to that can be used by every algorithm, is compiled, and can be exported.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

from mammoth_compiled import (
    MammothBackbone,
    ReturnTypes,
    export_bundle,
    load_bundle,
    load_runner,
    register_backbone,
    train,
)
from mammoth_compiled.errors import MammothError

# ---------------------------------------------------------------------------------------------
# 1. A first backbone: two convolutions and a linear head, for square colour images.
# ---------------------------------------------------------------------------------------------


class CustomCNN(MammothBackbone):
    """conv-relu-pool twice; every pooling halves the image, so the maps end at a quarter of it."""

    def __init__(self, num_classes, num_channels=32, image_size=32):
        super().__init__()
        self.conv1 = nn.Conv2d(3, num_channels, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(num_channels, 2 * num_channels, kernel_size=3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Linear(2 * num_channels * (image_size // 4) ** 2, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        features = x.flatten(1)
        return answer(self.classifier(features), features, returnt)


def answer(logits, features, returnt):
    """What was asked for; an unknown wish is an error, never a silent None."""
    if returnt == ReturnTypes.OUT:
        return logits
    if returnt == ReturnTypes.FEATURES:
        return features
    if returnt == ReturnTypes.BOTH:
        return logits, features
    raise ValueError(f"returnt must be 'out', 'features' or 'both', not {returnt!r}")


# A registered function is one variant. It gets `num_classes` from the dataset; its other arguments
# become options of every run, here `--width` of the residual network below.


@register_backbone("custom-cnn-small")
def custom_cnn_small(num_classes):
    """CustomCNN with 32 and 64 channels."""
    return CustomCNN(num_classes, num_channels=32)


@register_backbone("custom-cnn-large")
def custom_cnn_large(num_classes):
    """CustomCNN with 64 and 128 channels."""
    return CustomCNN(num_classes, num_channels=64)


# ---------------------------------------------------------------------------------------------
# 2. A residual network.
# ---------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in, channels_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Identity()
        if stride > 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x):
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class CustomResNet(MammothBackbone):
    """A stem that quarters the image, then stages that halve it and double the width."""

    def __init__(self, num_classes, width, depths):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            for i in range(depth):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(ResidualBlock(channels, width * 2**stage, stride))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        maps = self.blocks(self.stem(x))
        features = maps.mean((2, 3))
        return answer(self.classifier(features), features, returnt)


@register_backbone("custom-resnet")
def custom_resnet(num_classes, width: int = 16):
    """CustomResNet with four stages of one block."""
    return CustomResNet(num_classes, width, depths=(1, 1, 1, 1))


# ---------------------------------------------------------------------------------------------
# 3. Self-attention between the pixels of a map.
# ---------------------------------------------------------------------------------------------


class PixelAttention(nn.Module):
    """Every pixel is a token: softmax(Q K^T / sqrt(C)) V over H x W of them."""

    def __init__(self, channels):
        super().__init__()
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def forward(self, x):
        batch, channels, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        scores = self.query(tokens) @ self.key(tokens).transpose(1, 2) / channels**0.5
        mixed = scores.softmax(dim=-1) @ self.value(tokens)
        return mixed.transpose(1, 2).reshape(batch, channels, height, width)


class CustomAttention(MammothBackbone):
    """Convolutions with stride 2, attention between them, and the mean over the last map."""

    def __init__(self, num_classes, num_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(3, num_channels, 3, stride=2, padding=1)
        self.attention = PixelAttention(num_channels)
        self.conv2 = nn.Conv2d(num_channels, 2 * num_channels, 3, stride=2, padding=1)
        self.classifier = nn.Linear(2 * num_channels, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        x = self.attention(F.relu(self.conv1(x)))
        x = F.relu(self.conv2(x))
        features = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return answer(self.classifier(features), features, returnt)


@register_backbone("custom-attention")
def custom_attention(num_classes, num_channels: int = 32):
    """CustomAttention over 256 tokens for 32x32 images."""
    return CustomAttention(num_classes, num_channels)


# ---------------------------------------------------------------------------------------------
# 4. The same CNN from ready-made parts. The base class has a method `features`; a submodule of
#    that name takes its place, and the features are asked for with returnt="features".
# ---------------------------------------------------------------------------------------------


class SequentialCNN(MammothBackbone):
    def __init__(self, num_classes, num_channels):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, num_channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(num_channels, 2 * num_channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * num_channels * 8 * 8, num_classes)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = self.features(x)
        return answer(self.classifier(features), features, returnt)


@register_backbone("custom-sequential")
def custom_sequential(num_classes, num_channels: int = 16):
    """SequentialCNN with 16 and 32 channels."""
    return SequentialCNN(num_classes, num_channels)


VARIANTS = {
    "custom-cnn-small": custom_cnn_small,
    "custom-cnn-large": custom_cnn_large,
    "custom-resnet": custom_resnet,
    "custom-attention": custom_attention,
    "custom-sequential": custom_sequential,
}

# ---------------------------------------------------------------------------------------------
# What one does with them.
# ---------------------------------------------------------------------------------------------


def check(name, num_classes=10):
    """Asks a backbone for everything and sees that the answers agree. `load_runner` does so too."""
    net = VARIANTS[name](num_classes).eval()
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        logits = net(images)
        features = net(images, returnt="features")
        both = net(images, returnt=ReturnTypes.BOTH)
    assert logits.shape == (4, num_classes)
    assert features.shape[0] == 4
    assert features.dim() == 2
    assert torch.equal(both[0], logits)
    assert torch.equal(both[1], features)
    try:
        net(images, returnt="everything")
    except ValueError as error:
        message = str(error)
    assert "'everything'" in message
    print(f"  {name:<18} logits {tuple(logits.shape)}, features {tuple(features.shape)}")


def compare(repeats):
    """Parameters and forward time of every variant, in turns, so that all share the noise."""
    nets = {name: build(10).eval() for name, build in VARIANTS.items()}
    images = torch.randn(32, 3, 32, 32)
    times = {name: [] for name in nets}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, net in nets.items():
                start = time.perf_counter()
                net(images)
                times[name].append(time.perf_counter() - start)
    print(f"  {'':<18} {'parameters':>10} {'ms per batch of 32':>20}")
    for name, net in nets.items():
        parameters = sum(p.numel() for p in net.parameters())
        # The first one warms up.
        print(f"  {name:<18} {parameters:>10,} {1e3 * statistics.median(times[name][1:]):>20.2f}")


def experiment(options):
    """Trains a backbone on five tasks of two classes each, with replay of 200 images."""
    args = {
        "backbone": options.backbone,
        "buffer_size": 200,
        "lr": 0.05,
        "n_epochs": options.epochs,
        "debug_mode": options.debug,
        "compile": options.compile,
        "seed": options.seed,
    }
    if options.width is not None:
        args["width"] = options.width
    model, dataset = load_runner("er", "seq-fmnist-mini", args)
    parameters = sum(p.numel() for p in model.net.parameters())
    print(f"  {type(model.net).__name__}, {parameters:,} parameters")
    results = train(model, dataset)
    print(results.table())
    return model, dataset


def ship(model, dataset, path):
    """Exports the backbone, loads the bundle as a stranger would and compares on test images."""
    folder = export_bundle(model, path)
    bundle = load_bundle(folder)
    images, labels, plain = next(iter(dataset.test_loaders[0]))
    model.net.eval()
    with torch.no_grad():
        expected = model.net(images, returnt="both")
    for name, one, other in zip(("out", "features"), bundle(images, "both"), expected, strict=True):
        difference = (one - other).abs().max().item()
        print(f"  {name:<8} {list(one.shape)}, largest difference from eager {difference:.1e}")
        assert difference < 1e-3
    # A bundle knows how to normalise what a camera or a file gives.
    stored = (plain * 255).round().to(torch.uint8)
    guess = bundle(bundle.preprocess(stored[:1])).argmax(1).item()
    print(
        f"  the first test image, {bundle.class_names[labels[0]]!r}, is taken for "
        f"{bundle.class_names[guess]!r}"
    )
    print(f"  written to {folder}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", choices=VARIANTS, default="custom-cnn-small")
    parser.add_argument("--width", type=int, help="width of custom-resnet (default: 16)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs per task (default: 1)")
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--export", default="bundle", help="folder to export to (default: bundle)")
    parser.add_argument("--debug", action="store_true", help="six batches per task, to try it out")
    options = parser.parse_args()

    print("Contract")
    for name in VARIANTS:
        check(name)
    print("\nVariants, eager")
    compare(repeats=2 if options.debug else 20)
    try:
        print("\nTraining")
        model, dataset = experiment(options)
        print("\nExport")
        ship(model, dataset, options.export)
    except MammothError as error:  # a wrong option, a folder that is not empty, ...
        parser.error(str(error))


if __name__ == "__main__":
    main()
