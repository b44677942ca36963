"""Proves an export: every output against eager, at several batch sizes and kinds of images."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import Interface
from mammoth_compiled.export.capture.options import LOWEST

BATCH_SIZES = (1, 2, 7, 32)

# Relative to the largest value: random ResNet-50s have outputs in the thousands, where an
# absolute limit alone would refuse exports that are right to the sixth digit.
ABSOLUTE, RELATIVE = 1e-5, 1e-4

# Images to all outputs of an export, by name.
Run = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]
# An output's name and images to that output alone.
Eager = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Difference:
    """The largest difference between an export and eager, in the units of the output.

    Attributes:
        size: max |export - eager| over a batch.
        bound: What it may be: 1e-5 + 1e-4 * max |eager|.
        batch_size: B of that batch.
        inputs: Kind of its images: random, zeros, ones, samples or golden.
    """

    size: float
    bound: float
    batch_size: int
    inputs: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Case:
    """One batch and what eager gives for it.

    Attributes:
        inputs: Kind of its images.
        images: [B, ...], as the graph takes them.
        wanted: Output name to values [B, ...].
    """

    inputs: str
    images: torch.Tensor
    wanted: Mapping[str, torch.Tensor]

    @property
    def where(self) -> str:
        """Names the batch in messages."""
        size = len(self.images)
        return f"for {size} {'image' if size == 1 else 'images'} ({self.inputs})"


def make_cases(
    eager: Eager,
    interface: Interface,
    samples: torch.Tensor | None = None,
    batch_sizes: Sequence[int] = BATCH_SIZES,
) -> list[Case]:
    """Runs eager on random images, on all 0, on all 1 and on real ones, in several batch sizes.

    Args:
        eager: Maps an output's name and images to that output alone.
        interface: What goes in and comes out.
        samples: Real images as the graph takes them [N, ...].
        batch_sizes: Sizes of the batches.

    Raises:
        ExportError: If eager gives values that are not finite.
    """
    return [
        make_case(eager, interface, inputs, images)
        for inputs, images in _batches(interface, samples, batch_sizes)
    ]


def make_case(eager: Eager, interface: Interface, inputs: str, images: torch.Tensor) -> Case:
    """Runs eager on one batch; see `make_cases`."""
    with torch.no_grad(), float32():
        case = Case(inputs, images, {name: eager(name, images) for name in interface.outputs})
    for name, values in case.wanted.items():
        _check_finite(name, values, "the backbone itself", case)
    return case


def random_images(
    interface: Interface, size: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Returns random images: normal numbers, or pixels where the graph takes those."""
    generator = generator or torch.Generator().manual_seed(0)
    shape = (size, *interface.item_shape)
    if interface.pixels:
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return torch.randn(shape, generator=generator, dtype=torch.float32)


def compare(
    run: Run, cases: Sequence[Case], outputs: Sequence[str], what: str = "the export"
) -> dict[str, Difference]:
    """Compares every output of an export with eager.

    Args:
        run: Maps images to all outputs by name.
        cases: Images and what eager gives for them.
        outputs: The names the export must have, in this order.
        what: Names the export in messages.

    Returns:
        For each output the difference that came nearest to its bound.

    Raises:
        ExportError: If names, shapes or types differ, a value is not finite, or a difference
            exceeds its bound; names output, batch size, kind of images, difference and bound.
    """
    worst: dict[str, Difference] = {}
    with torch.no_grad(), float32():
        for case in cases:
            try:
                got = run(case.images)
            except ExportError as error:
                raise ExportError(
                    f"{what} does not run {case.where}, and eager does: {error}", error.code
                ) from error
            if list(got) != list(outputs):
                raise ExportError(f"{what} has outputs {list(got)}, not {list(outputs)}")
            for name in outputs:
                found = _difference(name, got[name], case, what)
                if found.size > found.bound or found.size != found.size:
                    raise ExportError(
                        f"{what} differs from eager: output {name!r} {case.where} differs by "
                        f"{found.size:.3g}, and the bound is {found.bound:.3g}"
                    )
                best = worst.get(name)
                if best is None or found.size * best.bound > best.size * found.bound:
                    worst[name] = found
    return worst


def check_repeats(eager: Eager, case: Case) -> None:
    """Tells a backbone that cannot be exported from one that is never the same twice.

    Raises:
        ExportError: If eager gives something else for the same images.
    """
    with torch.no_grad(), float32():
        for name, wanted in case.wanted.items():
            if not torch.equal(eager(name, case.images), wanted):
                raise ExportError(
                    f"eager does not repeat itself: output {name!r} {case.where} differs between "
                    "two calls. The backbone's forward is random or keeps state, as "
                    "F.dropout(x) without training=self.training does"
                )


@contextlib.contextmanager
def float32() -> Iterator[None]:
    """Keeps torch in float32 where it would multiply in bfloat16 or TF32.

    `torch.set_float32_matmul_precision`, which many programs call for their GPU, allows that.
    """
    backends: Any = torch.backends  # whose settings are made at run time
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


def _batches(
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


def _difference(name: str, got: torch.Tensor, case: Case, what: str) -> Difference:
    wanted = case.wanted[name]
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise ExportError(
            f"{what} differs from eager: output {name!r} {case.where} is {got.dtype} "
            f"{list(got.shape)} instead of {wanted.dtype} {list(wanted.shape)}"
        )
    _check_finite(name, got, what, case)
    # A masked class holds the lowest float32, which would make any bound infinite.
    values = wanted[wanted != LOWEST]
    largest = values.abs().max().item() if values.numel() else 0.0
    size = (got.cpu() - wanted).abs().max().item()
    return Difference(size, ABSOLUTE + RELATIVE * largest, len(wanted), case.inputs)


def _check_finite(name: str, values: torch.Tensor, what: str, case: Case) -> None:
    if not values.isfinite().all():
        raise ExportError(
            f"{what} gives values that are not finite in output {name!r} {case.where}. Look for a "
            "division by zero or diverged weights"
        )
