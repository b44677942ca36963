"""Custom backbones: write, check and compare them, then train one and export it.

    python examples/custom_backbone.py                            # about half a minute on a CPU
    python examples/custom_backbone.py --backbone custom-resnet --width 32 --epochs 2
    python examples/custom_backbone.py --debug --export /tmp/my-bundle  # a few seconds

A backbone is a network with a classification head. The argument `returnt` selects what its
forward returns: "out" the logits [B, K], "features" the input of the head [B, F], "both" a tuple
of the two. A backbone that keeps this contract works with every model, is compiled, and can be
exported. This is one long file so that it reads as a tutorial from top to bottom.
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
# 1. A first backbone: two convolutions and a linear head, for square color images.
# ---------------------------------------------------------------------------------------------


class CustomCNN(MammothBackbone):
    """Applies conv-relu-pool twice. Each pooling halves the image, to a quarter in the end."""

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
        return select(self.classifier(features), features, returnt)


def select(logits, features, returnt):
    """Returns what `returnt` selects, and raises an error for an unknown value."""
    if returnt == ReturnTypes.OUT:
        return logits
    if returnt == ReturnTypes.FEATURES:
        return features
    if returnt == ReturnTypes.BOTH:
        return logits, features
    raise ValueError(f"returnt must be 'out', 'features' or 'both', not {returnt!r}")


# A registered function defines one variant. The dataset provides `num_classes`. All other arguments
# become command-line options, such as `--width` of the residual network below.


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
    """Two convolutions with a shortcut, which is a 1x1 convolution if the shape changes."""

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
    """A stem that quarters the image size, then stages that halve it and double the width."""

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
        return select(self.classifier(features), features, returnt)


@register_backbone("custom-resnet")
def custom_resnet(num_classes, width: int = 16):
    """CustomResNet with four stages of one block."""
    return CustomResNet(num_classes, width, depths=(1, 1, 1, 1))


# ---------------------------------------------------------------------------------------------
# 3. Self-attention between the pixels of a feature map.
# ---------------------------------------------------------------------------------------------


class PixelAttention(nn.Module):
    """Computes softmax(Q K^T / sqrt(C)) V with the H x W pixels as tokens."""

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
    """Two convolutions with stride 2 and attention in between, then global average pooling."""

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
        return select(self.classifier(features), features, returnt)


@register_backbone("custom-attention")
def custom_attention(num_classes, num_channels: int = 32):
    """CustomAttention over 256 tokens for 32x32 images."""
    return CustomAttention(num_classes, num_channels)


# ---------------------------------------------------------------------------------------------
# 4. The same CNN as nn.Sequential. The submodule `features` shadows the method of that name of the
#    base class, so callers request features with returnt="features".
# ---------------------------------------------------------------------------------------------


class SequentialCNN(MammothBackbone):
    """CustomCNN for images of 32 x 32, written as one nn.Sequential."""

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
        return select(self.classifier(features), features, returnt)


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
# 5. Check, compare, train and export.
# ---------------------------------------------------------------------------------------------


def check(name, num_classes=10):
    """Checks that all return types agree, as `load_runner` does as well."""
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
    """Prints parameters and forward time of every variant, measured interleaved."""
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
        # The first call is a warm-up.
        print(f"  {name:<18} {parameters:>10,} {1e3 * statistics.median(times[name][1:]):>20.2f}")


def experiment(options):
    """Trains a backbone on five tasks of two classes each, with a replay buffer of 200 images."""
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


def export(model, dataset, path):
    """Exports the backbone, loads the bundle and compares both on test images."""
    directory = export_bundle(model, path)
    bundle = load_bundle(directory)
    images, labels, not_aug_images = next(iter(dataset.test_loaders[0]))
    model.net.eval()
    with torch.no_grad():
        expected = model.net(images, returnt="both")
    for name, actual, wanted in zip(
        ("out", "features"), bundle(images, "both"), expected, strict=True
    ):
        difference = (actual - wanted).abs().max().item()
        print(f"  {name:<8} {list(actual.shape)}, largest difference from eager {difference:.1e}")
        assert difference < 1e-3
    # The bundle knows how to normalize stored pixels.
    stored = (not_aug_images * 255).round().to(torch.uint8)
    predicted = bundle(bundle.preprocess(stored[:1])).argmax(1).item()
    print(
        f"  first test image: {bundle.class_names[labels[0]]!r}, predicted as "
        f"{bundle.class_names[predicted]!r}"
    )
    print(f"  written to {directory}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--backbone", choices=VARIANTS, default="custom-cnn-small", help="Backbone to train."
    )
    parser.add_argument("--width", type=int, help="Width of custom-resnet (default: 16).")
    parser.add_argument("--epochs", type=int, default=1, help="Epochs per task (default: 1).")
    parser.add_argument(
        "--compile", choices=["auto", "on", "off"], default="auto", help="Compile the backbone."
    )
    parser.add_argument("--seed", type=int, default=0, help="Random seed.")
    parser.add_argument("--export", default="bundle", help="Output directory (default: bundle).")
    parser.add_argument("--debug", action="store_true", help="Train only six batches per task.")
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
        export(model, dataset, options.export)
    except MammothError as error:  # such as a wrong option or an output directory with other files
        parser.error(str(error))


if __name__ == "__main__":
    main()
