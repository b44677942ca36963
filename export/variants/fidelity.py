"""Checks how faithful a smaller variant is to the float32 model it was made from.

A variant is not equal to eager mode, so it is judged by its purpose: float16 by the difference of
every output, int8 by whether it predicts the same classes for real images, and both by accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mammoth_compiled.errors import ExportError
from mammoth_compiled.export.capture.interface import Run
from mammoth_compiled.export.capture.options import LOWEST

# A float16 value has 11 significant bits, a relative error of 5e-4; the rest is for deep sums.
FP16_ABSOLUTE, FP16_RELATIVE = 1e-3, 2e-2
MIN_AGREEMENT, MIN_COSINE = 0.95, 0.99
MAX_ACCURACY_DROP = 0.01

_BATCH_SIZE = 32


@dataclass(frozen=True)
class Fidelity:
    """How close a variant is to float32 on real images.

    Attributes:
        agreement: Share of images for which both predict the same class, in [0, 1].
        cosine: Smallest cosine between a feature vector and its float32 counterpart; 1 without
            features.
        size: Output name to max |variant - float32|, in the units of the output.
        bound: Output name to the largest admissible size; empty for int8.
    """

    agreement: float
    cosine: float
    size: dict[str, float]
    bound: dict[str, float]


def compare_variant(kind: str, reference: Run, variant: Run, images: torch.Tensor) -> Fidelity:
    """Compares a variant with float32 on real images and refuses it if it differs too much.

    Args:
        kind: `fp16`, whose outputs may differ by 1e-3 + 2e-2 * max |float32|; or `int8`, which must
            predict the same class for 95 % of the images and keep the direction of every feature
            vector (cosine of at least 0.99).
        reference: The float32 model.
        variant: The variant.
        images: Real images as the model takes them [N, ...].

    Raises:
        ExportError: If the variant differs by more; says by how much.
    """
    expected, outputs = _run(reference, images), _run(variant, images)
    size = {name: (outputs[name] - expected[name]).abs().max().item() for name in expected}
    bound = {}
    if kind == "fp16":
        bound = {name: _fp16_bound(values) for name, values in expected.items()}
    agreement = (outputs["out"].argmax(1) == expected["out"].argmax(1)).double().mean().item()
    cosine = 1.0
    if "features" in expected:
        pair = (outputs["features"].double(), expected["features"].double())
        cosine = torch.cosine_similarity(*pair).min().item()
    for name, limit in bound.items():
        if not size[name] <= limit:
            raise ExportError(
                f"the fp16 variant differs from float32: output {name!r} by {size[name]:.3g}, and "
                f"the bound is {limit:.3g}. Values beyond 65504 do not fit float16: export without "
                "this variant"
            )
    if kind == "int8" and not (agreement >= MIN_AGREEMENT and cosine >= MIN_COSINE):
        raise ExportError(
            f"the int8 variant differs from float32: it predicts the same class for {agreement:.1%}"
            f" of {len(images)} images (at least {MIN_AGREEMENT:.0%}), and the cosine of a feature "
            f"vector falls to {cosine:.4f} (at least {MIN_COSINE}). Calibrate on more images of "
            "all classes, or export without this variant"
        )
    return Fidelity(agreement, cosine, size, bound)


def accuracy(
    run: Run,
    images: torch.Tensor,
    labels: torch.Tensor,
    ids: Sequence[int],
    seen: Sequence[int] | None = None,
) -> float:
    """Returns the Class-IL accuracy of a model, in [0, 1].

    Args:
        run: The model.
        images: Test images as the model takes them [N, ...].
        labels: Their class ids, int64 [N].
        ids: The class id of each column of `out`.
        seen: Ids of the classes to predict; images of other classes are not counted. None takes
            all classes.

    Raises:
        ExportError: If no image belongs to a class seen.
    """
    wanted = [k for k, id_ in enumerate(ids) if seen is None or id_ in seen]
    columns = torch.tensor(wanted, dtype=torch.int64)
    candidates = torch.tensor(list(ids))[columns]
    counted = torch.isin(labels.cpu(), candidates)
    if not counted.any():
        raise ExportError("accuracy needs test images of the classes seen, and there are none")
    scores = _run(run, images[counted])["out"][:, columns]
    return (candidates[scores.argmax(1)] == labels.cpu()[counted]).double().mean().item()


def check_accuracy(kind: str, reference: float, variant: float) -> None:
    """Refuses a variant whose accuracy is more than one percentage point lower.

    Args:
        kind: Name of the variant in the message.
        reference: Accuracy of the float32 model on the test set, in [0, 1].
        variant: Accuracy of the variant on the same images.

    Raises:
        ExportError: If the accuracy is lower by more.
    """
    if not variant >= reference - MAX_ACCURACY_DROP:
        raise ExportError(
            f"the {kind} variant classifies {variant:.2%} of the test images correctly and float32 "
            f"{reference:.2%}: it may lose {MAX_ACCURACY_DROP:.2%}. Calibrate on more images of "
            "all classes, or export without this variant"
        )


def _fp16_bound(reference: torch.Tensor) -> float:
    """Returns the admissible difference of a float16 output, from its largest unmasked value."""
    values = reference[reference != LOWEST]
    return FP16_ABSOLUTE + FP16_RELATIVE * values.abs().max().item()


def _run(run: Run, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Runs images in batches and concatenates the outputs."""
    batches = [run(batch) for batch in images.split(_BATCH_SIZE)]
    return {name: torch.cat([batch[name].cpu() for batch in batches]) for name in batches[0]}
