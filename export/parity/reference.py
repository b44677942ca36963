"""Collects the data that exported files are checked against: eager outputs and real images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.graph import NamedOutputs
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.capture.options import SCALE
from mammoth_compiled.export.parity.compare import (
    BATCH_SIZES,
    Exact,
    ReferenceBatch,
    check_deterministic,
    make_batch,
    make_batches,
    random_images,
)
from mammoth_compiled.export.parity.float64 import Float64
from mammoth_compiled.types import DatasetInfo

GOLDEN_SIZE = 4

# Normalized images float32 [N, C, H, W], or a function that returns them.
Images = torch.Tensor | Callable[[], torch.Tensor]
# Images and class ids int64 [N], or a function that returns both.
LabeledImages = tuple[torch.Tensor, torch.Tensor] | Callable[[], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class ReferenceData:
    """The data that exported files are checked against.

    Attributes:
        batches: Images and their outputs in eager mode; the last batch is the golden one.
        exact: The graph in float64.
        calibration: Training images as the graph takes them [N, ...], if given.
        test_set: Test images as the graph takes them [N, ...] and class ids int64 [N], if given.
    """

    batches: Sequence[ReferenceBatch]
    exact: Exact
    calibration: torch.Tensor | None = None
    test_set: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def golden(self) -> ReferenceBatch:
        """The batch that the bundle stores."""
        return self.batches[-1]


def collect_reference(
    graph: NamedOutputs,
    info: DatasetInfo,
    samples: torch.Tensor | None = None,
    calibration: Images | None = None,
    test_set: LabeledImages | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> ReferenceData:
    """Runs the graph in eager mode on all images that files are checked with.

    Args:
        graph: The graph to export.
        info: The training data.
        samples: Real images, normalized float32 [N, C, H, W].
        calibration: Training images, likewise.
        test_set: Test images, likewise, and their class ids.
        batch_sizes: Sizes of the batches besides the golden ones. Empty if the graph was verified
            before and only its weights are new.

    Raises:
        ExportError: If images have another form, or the graph is not deterministic.
    """
    interface, eager = graph.interface, graph.compute_alone

    def prepare(images: torch.Tensor, name: str) -> torch.Tensor:
        return _as_input(_check_images(images, interface.input_shape, name), interface, info)

    if samples is not None:
        samples = prepare(samples, "samples")
    if callable(calibration):
        calibration = calibration()
    if calibration is not None:
        calibration = prepare(calibration, "calibration")
    if callable(test_set):
        test_set = test_set()
    if test_set is not None:
        images, labels = test_set
        test_set = prepare(images, "test_set images"), torch.as_tensor(labels).cpu()
    batches = make_batches(eager, interface, samples, batch_sizes)
    if samples is None:
        golden = random_images(interface, GOLDEN_SIZE)
    else:
        golden = samples[torch.arange(GOLDEN_SIZE) % len(samples)]
    # Batch size 1 as well, because an update runs no other batches.
    batches += [make_batch(eager, interface, "golden", images) for images in (golden[:1], golden)]
    check_deterministic(eager, batches[0])
    return ReferenceData(batches, Float64(graph).evaluate, calibration, test_set)


def _check_images(images: object, shape: tuple[int, int, int], name: str) -> torch.Tensor:
    if not isinstance(images, torch.Tensor):
        raise ExportError(f"{name} must be a torch tensor, not {type(images).__name__}")
    if images.dtype != torch.float32 or images.shape[1:] != shape or len(images) == 0:
        raise ExportError(
            f"{name} must be normalized images, float32 [N, {', '.join(map(str, shape))}], but "
            f"are {images.dtype} {list(images.shape)}"
        )
    return images.detach().cpu().contiguous()


def _as_input(images: torch.Tensor, interface: Interface, info: DatasetInfo) -> torch.Tensor:
    """Returns normalized images as the graph takes them: unchanged, or as pixels."""
    if not interface.pixels:
        return images
    shape = (-1, 1, 1)
    values = images * torch.tensor(info.std).view(shape) + torch.tensor(info.mean).view(shape)
    pixels = (values / SCALE).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous()
