"""Compares every output of an export with eager mode, on several kinds and sizes of batches."""

import contextlib
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import Interface, Run
from mammoth_compiled.export.capture.options import LOWEST
from mammoth_compiled.export.capture.specialization import user_line

BATCH_SIZES = (1, 2, 7, 32)

# The bound is relative to the largest value: a randomly initialized ResNet-50 has outputs in the
# thousands, for which an absolute bound alone would refuse exports with six correct digits.
ABSOLUTE, RELATIVE = 1e-5, 1e-4

# The backbone in eager mode: maps the name of an output, and images, to that output alone.
Eager = Callable[[str, torch.Tensor], torch.Tensor]


# The backbone in float64: maps the name of an output, and images, to that output and the distance
# from it that rounding explains; see `float64.Float64.evaluate`.
Exact = Callable[[str, torch.Tensor], tuple[torch.Tensor, float] | None]

EAGER, FLOAT64 = "eager", "float64"


@dataclass(frozen=True)
class Difference:
    """The largest difference between an export and eager mode, in the units of the output.

    Attributes:
        size: max |export - reference| over a batch.
        bound: The largest admissible size: 1e-5 + 1e-4 * max |eager|, and for float64 what
            rounding explains besides.
        batch_size: B of that batch.
        inputs: Kind of its images: random, zeros, ones, samples or golden.
        reference: `eager`; or `float64`, where eager mode itself is inaccurate.
    """

    size: float
    bound: float
    batch_size: int
    inputs: str
    reference: str = EAGER

    @property
    def is_admissible(self) -> bool:
        """Whether the difference is within its bound; NaN is not."""
        return self.size <= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, for JSON."""
        return asdict(self)

    def exceeds(self, other: "Difference | None") -> bool:
        """Returns whether this difference is worse than another one.

        One that exceeds the bound for eager mode is; otherwise the one closer to its bound.
        """
        if other is None or self.reference != other.reference:
            return other is None or self.reference == FLOAT64
        return self.size * other.bound > other.size * self.bound


@dataclass(frozen=True)
class ReferenceBatch:
    """A batch of images and its outputs in eager mode.

    Attributes:
        kind: Kind of the images, see `Difference.inputs`.
        images: [B, ...], as the graph takes them.
        outputs: Output name to values [B, ...].
    """

    kind: str
    images: torch.Tensor
    outputs: Mapping[str, torch.Tensor]

    @property
    def where(self) -> str:
        """Description of the batch in messages."""
        size = len(self.images)
        return f"for {size} {'image' if size == 1 else 'images'} ({self.kind})"


def make_batches(
    eager: Eager,
    interface: Interface,
    samples: torch.Tensor | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> list[ReferenceBatch]:
    """Runs eager mode on random, all-zero, all-one and real images, in several batch sizes.

    Args:
        eager: The backbone in eager mode.
        interface: Names, dtypes and shapes of its input and outputs.
        samples: Real images as the graph takes them [N, ...].
        batch_sizes: Sizes of the batches.

    Raises:
        ExportError: If an output in eager mode is not finite.
    """
    return [
        make_batch(eager, interface, kind, images)
        for kind, images in _images(interface, samples, batch_sizes)
    ]


def make_batch(
    eager: Eager, interface: Interface, kind: str, images: torch.Tensor
) -> ReferenceBatch:
    """Runs eager mode on one batch; see `make_batches`."""
    batch = ReferenceBatch(kind, images, {})
    try:
        with torch.no_grad(), full_float32():
            outputs = {name: eager(name, images) for name in interface.outputs}
    except Exception as error:  # user code may raise anything
        where = user_line(traceback.extract_tb(error.__traceback__))
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ExportError(
            f"the backbone itself does not run {batch.where}: {textwrap.shorten(reason, 200)}"
            f"{where}. An export must run with any number of images"
        ) from error
    batch = ReferenceBatch(kind, images, outputs)
    for name, values in outputs.items():
        _check_finite(name, values, "the backbone itself", batch)
    return batch


def random_images(
    interface: Interface, size: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Returns normally distributed images, or uniform pixels if the graph takes pixels."""
    generator = generator or torch.Generator().manual_seed(0)
    shape = (size, *interface.item_shape)
    if interface.pixels:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def compare(
    run: Run,
    batches: Sequence[ReferenceBatch],
    outputs: Sequence[str],
    subject: str = "the export",
    exact: Exact | None = None,
) -> dict[str, Difference]:
    """Compares every output of an export with eager mode.

    An output that differs too much from eager mode is compared with float64: it may be off by the
    same bound plus what rounding explains for these very images.

    Args:
        run: Maps images to all outputs by name.
        batches: Images and their outputs in eager mode.
        outputs: The names that the export must have, in this order.
        subject: Name of the export in messages.
        exact: The backbone in float64; None compares with eager mode only.

    Returns:
        For each output, the worst difference; see `Difference.exceeds`.

    Raises:
        ExportError: If names, shapes or dtypes differ, a value is not finite, or a difference
            exceeds its bound; names output, batch size, kind of images, difference and bound.
    """
    worst: dict[str, Difference] = {}
    with torch.no_grad(), full_float32():
        for batch in batches:
            try:
                values = run(batch.images)
            except ExportError as error:
                raise ExportError(
                    f"{subject} does not run {batch.where}, although eager mode does: {error}",
                    error.code,
                ) from error
            if list(values) != list(outputs):
                raise ExportError(f"{subject} has outputs {list(values)}, not {list(outputs)}")
            for name in outputs:
                found = _difference(name, values[name], batch, subject, exact)
                if found.exceeds(worst.get(name)):
                    worst[name] = found
    return worst


def check_deterministic(eager: Eager, batch: ReferenceBatch) -> None:
    """Distinguishes a wrong export from a backbone that gives another result on every call.

    Raises:
        ExportError: If eager mode gives another result for the same images.
    """
    with torch.no_grad(), full_float32():
        for name, values in batch.outputs.items():
            if not torch.equal(eager(name, batch.images), values):
                raise ExportError(
                    f"the backbone is not deterministic: output {name!r} {batch.where} differs "
                    "between two calls in eager mode. Its forward draws random numbers or keeps "
                    "state, as F.dropout(x) without training=self.training does"
                )


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Computes in float32 even if the program allows TF32 or bfloat16 for float32 matmuls.

    Many programs do so for their GPU with `torch.set_float32_matmul_precision`.
    """
    backends: Any = torch.backends  # typed Any, as these settings are created at run time
    settings = (
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.cuda.matmul,
        backends.cudnn.conv,
    )
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision


def _images(
    interface: Interface, samples: torch.Tensor | None, batch_sizes: Sequence[int]
) -> Iterator[tuple[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for size in batch_sizes:
        zeros = interface.example(size)
        yield "random", random_images(interface, size, generator)
        yield "zeros", zeros
        yield "ones", torch.ones_like(zeros)
        if samples is not None:
            yield "samples", samples[torch.arange(size) % len(samples)]


def _difference(
    name: str, values: torch.Tensor, batch: ReferenceBatch, subject: str, exact: Exact | None
) -> Difference:
    """Returns the difference of an output from eager mode or from float64 if it is admissible."""
    expected = batch.outputs[name]
    if values.shape != expected.shape or values.dtype != expected.dtype:
        raise ExportError(
            f"{subject} differs from eager: output {name!r} {batch.where} is {values.dtype} "
            f"{list(values.shape)} instead of {expected.dtype} {list(expected.shape)}"
        )
    _check_finite(name, values, subject, batch)
    # A masked class holds the lowest float32, which would make every bound infinite.
    unmasked = expected[expected != LOWEST]
    largest = unmasked.abs().max().item() if unmasked.numel() else 0.0
    bound, values = ABSOLUTE + RELATIVE * largest, values.cpu()
    size = (values - expected).abs().max().item()
    found = Difference(size, bound, len(expected), batch.kind)
    if found.is_admissible:
        return found
    message = (
        f"{subject} differs from eager: output {name!r} {batch.where} differs by {size:.3g}, and "
        f"the bound is {bound:.3g}"
    )
    in_float64 = None if exact is None else exact(name, batch.images)
    if in_float64 is not None:
        precise, rounding = in_float64
        size = (values - precise).abs().max().item()
        found = Difference(size, bound + rounding, len(expected), batch.kind, FLOAT64)
        if found.is_admissible:
            return found
        message += f"; from float64 it differs by {size:.3g}, and the bound is {found.bound:.3g}"
    raise ExportError(message)


def _check_finite(name: str, values: torch.Tensor, subject: str, batch: ReferenceBatch) -> None:
    if not values.isfinite().all():
        raise ExportError(
            f"{subject} gives values that are not finite in output {name!r} {batch.where}. Look "
            "for a division by zero or diverged weights"
        )
