"""Proves an export: every output against eager, at several batch sizes and kinds of images."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mammoth_compiled.errors import ExportError

BATCH_SIZES = (1, 2, 7, 32)

# Relative to the largest value: random ResNet-50s have outputs in the thousands, where an
# absolute limit alone would refuse exports that are right to the sixth digit.
ABSOLUTE, RELATIVE = 1e-5, 1e-4

Export = Callable[[torch.Tensor], dict[str, torch.Tensor]]
Eager = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Difference:
    """The largest difference between an export and eager, in the units of the output.

    Attributes:
        size: max |export - eager| over a batch.
        bound: What it may be: 1e-5 + 1e-4 * max |eager|.
        batch_size: B of that batch.
        inputs: Kind of its images: random, zeros, ones or samples.
    """

    size: float
    bound: float
    batch_size: int
    inputs: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, for JSON."""
        return asdict(self)


def compare(
    export: Export,
    eager: Eager,
    outputs: Sequence[str],
    input_shape: tuple[int, int, int],
    samples: torch.Tensor | None = None,
) -> dict[str, Difference]:
    """Compares every output of an export with eager.

    Images are random, all 0, all 1 and, if given, real ones, in batches of 1, 2, 7 and 32.

    Args:
        export: Maps images [B, C, H, W] to all outputs by name.
        eager: Maps an output's name and images to that output alone.
        outputs: The names the export must have, in this order.
        input_shape: (C, H, W) of one image.
        samples: Real images as the backbone takes them, normalised float32 [N, C, H, W].

    Returns:
        For each output the difference that came nearest to its bound.

    Raises:
        ExportError: If names, shapes or types differ, a value is not finite, or a difference
            exceeds its bound; names output, batch size, kind of images, difference and bound.
    """
    worst: dict[str, Difference] = {}
    with torch.no_grad(), _float32():
        for kind, batch_size, images in _batches(input_shape, samples):
            where = f"for {batch_size} {'image' if batch_size == 1 else 'images'} ({kind})"
            try:
                got = export(images)
            except ExportError as error:
                raise ExportError(
                    f"the export does not run {where}, and eager does: {error}. Nothing was written"
                ) from error
            if list(got) != list(outputs):
                raise ExportError(
                    f"the export has outputs {list(got)}, not {list(outputs)}. Nothing was written"
                )
            for name in outputs:
                want = eager(name, images)
                _check_form(name, got[name], want, where)
                size = (got[name] - want).abs().max().item()
                bound = ABSOLUTE + RELATIVE * want.abs().max().item()
                if not size <= bound:
                    raise ExportError(
                        f"the export differs from eager: output {name!r} {where} differs by "
                        f"{size:.3g}, and the bound is {bound:.3g}"
                        f"{_hint(eager, name, images, want)}. Nothing was written"
                    )
                if name not in worst or size * worst[name].bound > worst[name].size * bound:
                    worst[name] = Difference(size, bound, batch_size, kind)
    return worst


def _batches(
    input_shape: tuple[int, int, int], samples: torch.Tensor | None
) -> Iterator[tuple[str, int, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    for size in BATCH_SIZES:
        shape = (size, *input_shape)
        yield "random", size, torch.randn(shape, generator=generator, dtype=torch.float32)
        yield "zeros", size, torch.zeros(shape, dtype=torch.float32)
        yield "ones", size, torch.ones(shape, dtype=torch.float32)
        if samples is not None:
            yield "samples", size, samples[torch.arange(size) % len(samples)]


def _check_form(name: str, got: torch.Tensor, want: torch.Tensor, where: str) -> None:
    if got.shape != want.shape or got.dtype != want.dtype:
        raise ExportError(
            f"the export differs from eager: output {name!r} {where} is {got.dtype} "
            f"{list(got.shape)} instead of {want.dtype} {list(want.shape)}. Nothing was written"
        )
    for values, what in ((want, "the backbone itself"), (got, "the export")):
        if not values.isfinite().all():
            raise ExportError(
                f"{what} gives values that are not finite in output {name!r} {where}. Look for a "
                "division by zero or diverged weights. Nothing was written"
            )


def _hint(eager: Eager, name: str, images: torch.Tensor, want: torch.Tensor) -> str:
    """Tells a backbone that cannot be exported from one that is never the same twice."""
    if torch.equal(eager(name, images), want):
        return ""
    return (
        " (but eager does not repeat itself either: its forward is random or keeps state, as "
        "F.dropout(x) without training=self.training does)"
    )


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Keeps eager in float32 on CPUs that would multiply in bfloat16 or TF32.

    `torch.set_float32_matmul_precision`, which many programs call for their GPU, allows that.
    """
    backend: Any = torch.backends.mkldnn  # whose settings are made at run time
    settings = (backend.matmul, backend.conv)
    before = [setting.fp32_precision for setting in settings]
    try:
        for setting in settings:
            setting.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, before, strict=True):
            setting.fp32_precision = precision
