"""python export_bundles.py DIR BACKEND...: exports the bundles that the native tests run.

DIR/plain has a model for every backend and the variants fp16 and int8. DIR/folded takes stored
pixels and outputs probabilities of the classes seen.
"""

import sys
from pathlib import Path

import torch

from mammoth_compiled.backbones.cnn import CNN
from mammoth_compiled.export import export_bundle
from mammoth_compiled.types import DatasetInfo

INFO = DatasetInfo(
    name="random",
    input_shape=(3, 16, 20),
    mean=(0.2, 0.3, 0.4),
    std=(0.5, 0.6, 0.7),
    num_classes=10,
    class_names=tuple(f"class {k}" for k in "abcdefghij"),
    tasks=((0, 5), (5, 10)),
    tasks_seen=1,
)


class WideCNN(CNN):
    """The small CNN for images that are not square, so that swapped axes are noticed."""

    def __init__(self) -> None:
        super().__init__(INFO.num_classes, num_channels=4)
        self.feature_dim = 8 * (16 // 4) * (20 // 4)
        self.classifier = torch.nn.Linear(self.feature_dim, INFO.num_classes)


def main() -> None:
    """Exports both bundles."""
    folder, *backends = Path(sys.argv[1]), *sys.argv[2:]
    torch.manual_seed(0)
    net = WideCNN()
    images = torch.randn(64, *INFO.input_shape)
    export_bundle(
        net,
        folder / "plain",
        info=INFO,
        samples=images,
        formats=[*backends, "safetensors"],
        variants=("fp16", "int8"),
        calibration=images,
    )
    export_bundle(
        net,
        folder / "folded",
        info=INFO,
        formats="onnx",
        fold_preprocessing=True,
        classes="seen",
        softmax=True,
    )


if __name__ == "__main__":
    main()
