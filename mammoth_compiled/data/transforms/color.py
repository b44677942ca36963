"""Brightness, contrast, saturation and hue of a batch, with factors of its own for each image.

The same four steps exist in three arithmetics: that of Pillow on bytes, and those of torchvision on
float tensors in [0, 1] and on byte tensors. Intermediate bytes are integers in float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Arithmetic:
    """The operations on images of one kind; all tensors are float32.

    Attributes:
        gray: Returns the gray levels, [B, 1, H, W], of images, [B, 3, H, W].
        mean: Returns the mean, [B, 1, 1, 1], of gray levels, [B, 1, H, W].
        blend: Returns level + factor * (image - level) for levels, images and factors.
        rotate_hue: Rotates the hue of images, [B, 3, H, W], by fractions of a turn, [B].
    """

    gray: Callable[[torch.Tensor], torch.Tensor]
    mean: Callable[[torch.Tensor], torch.Tensor]
    blend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    rotate_hue: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def jitter(
    images: torch.Tensor,
    order: torch.Tensor,
    factors: Sequence[torch.Tensor | None],
    arithmetic: Arithmetic,
) -> torch.Tensor:
    """Changes the colors of every image by its own factors, in its own order.

    Args:
        images: uint8 or float in [0, 1], [B, C, H, W], C 1 or 3.
        order: The steps of each image from first to last, a permutation of 0 (brightness), 1
            (contrast), 2 (saturation) and 3 (hue), int64, [B, 4].
        factors: The factors of brightness, contrast and saturation, and the rotation of the hue in
            turns, -0.5 to 0.5; each float32, [B], or None to skip the step.
        arithmetic: `PILLOW` for bytes of PIL images, else `FLOATS` or `BYTES` by the dtype.

    Returns:
        [B, C, H, W], dtype of `images`. Equal to Pillow's with `PILLOW`, else to torchvision's
        except for the rounding of float32, which can change a byte by one level.
    """
    result, position = images.float(), order.argsort(1)
    is_rgb = images.shape[1] == 3
    # A gray image has neither saturation nor hue.
    hue = factors[3] if is_rgb else None
    blends = {k: f for k, f in enumerate(factors[: 3 if is_rgb else 2]) if f is not None}
    if blends:
        positions = torch.stack([position[:, kind] for kind in blends], 1)
        sequence = positions.argsort(1)
        weights = torch.stack(list(blends.values()), 1).gather(1, sequence)
        is_before_hue = positions.gather(1, sequence) < position[:, 3:]
        # Hue is expensive and computed once for the batch. Blends run before and after it, where a
        # factor of 1 skips those that belong on the other side.
        before = weights if hue is None else torch.where(is_before_hue, weights, 1.0)
        result = _blend(result, list(blends), sequence, before, arithmetic)
    if hue is not None:
        result = arithmetic.rotate_hue(result, hue)
        if blends:
            after = torch.where(is_before_hue, 1.0, weights)
            result = _blend(result, list(blends), sequence, after, arithmetic)
    return result.to(images.dtype)


def _blend(
    images: torch.Tensor,
    kinds: Sequence[int],
    sequence: torch.Tensor,
    factors: torch.Tensor,
    arithmetic: Arithmetic,
) -> torch.Tensor:
    """Blends each image with black, its mean or its gray image, in a sequence of its own.

    Args:
        images: [B, C, H, W].
        kinds: The steps, sorted: 0 brightness, 1 contrast, 2 saturation.
        sequence: Indices into `kinds` from the first blend to the last, [B, len(kinds)].
        factors: The factors in that sequence, [B, len(kinds)].
        arithmetic: The operations.
    """
    for step, factor in zip(sequence.unbind(1), factors.unbind(1), strict=True):
        level = torch.zeros_like(images[:, :1])
        if kinds != [0]:
            gray = images if images.shape[1] == 1 else arithmetic.gray(images)
            for index, kind in enumerate(kinds):
                if kind > 0:
                    degenerate = arithmetic.mean(gray) if kind == 1 else gray
                    level = torch.where(_per_image(step == index), degenerate, level)
        images = arithmetic.blend(level, images, _per_image(factor))
    return images


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]


def _pillow_gray(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.int().split(1, 1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000 >> 16).float()


def _pillow_mean(gray: torch.Tensor) -> torch.Tensor:
    count = gray.shape[2] * gray.shape[3]
    total = gray.sum((2, 3), keepdim=True, dtype=torch.float64)
    return (total / count + 0.5).floor().float()


def _pillow_blend(level: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (level + factor * (images - level)).clamp_(0, 255).floor_()


def _pillow_rotate_hue(images: torch.Tensor, fraction: torch.Tensor) -> torch.Tensor:
    hue, saturation, value = pillow_hsv(images)
    shift = (fraction.double() * 255).trunc().float()
    return pillow_rgb((hue + shift[:, None, None]).remainder(256), saturation, value)


def pillow_hsv(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns hue, saturation and value, 0 to 255, [B, H, W], of byte images, [B, 3, H, W].

    Switches between float32 and float64 exactly where Pillow does, so that all 2^24 colors are
    equal to its results.
    """
    red, green, _ = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    span = value - low
    to_red, to_green, to_blue = ((value - c) / span.clamp(min=1) for c in images.unbind(1))
    sixths = torch.where(
        red == value,
        (to_blue - to_green).double(),
        torch.where(green == value, 2 + to_red.double() - to_blue, 4 + to_green.double() - to_red),
    ).float()
    hue = (sixths.double() / 6 + 1).frac().float()
    hue = torch.where(span == 0, 0, (hue.double() * 255).floor().float())
    saturation = span / value.clamp(min=1)
    return hue, (saturation.double() * 255).floor().float(), value


def pillow_rgb(hue: torch.Tensor, saturation: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Returns byte images, [B, 3, H, W], of the results of `pillow_hsv`, equal to Pillow's."""
    sixths = hue.double() * 6 / 255
    sector = sixths.floor()
    part = (sixths - sector).float()
    strength = saturation / 255
    low = value * (1 - strength.double())
    falling = value * (1 - (strength * part).double())
    rising = value * (1 - strength.double() * (1 - part.double()))
    # Rounds half up, from float32.
    low, falling, rising = ((x.float() + 0.5).floor_() for x in (low, falling, rising))
    images = _sectors(sector.long(), value, low, falling, rising)
    return torch.where(saturation[:, None] == 0, value[:, None], images)


def _sectors(
    sector: torch.Tensor,
    value: torch.Tensor,
    low: torch.Tensor,
    falling: torch.Tensor,
    rising: torch.Tensor,
) -> torch.Tensor:
    """Returns the colors, [B, 3, H, W], for the sixths of a turn, int64, 0 to 6, [B, H, W]."""
    one_turn = (value, falling, low, low, rising, value)
    # Green is two sixths behind red and blue four; a second turn avoids the modulo operation.
    choices = torch.stack((*one_turn, *one_turn)).flatten()
    sectors = torch.stack((sector, sector + 4, sector + 2), 1)
    pixel = torch.arange(value.numel(), device=value.device).view_as(value)[:, None]
    # One flat gather is many times faster on a CPU than one along the first dimension.
    index = sectors * value.numel() + pixel
    return choices.gather(0, index.flatten()).view_as(index)


def _gray(images: torch.Tensor) -> torch.Tensor:
    red, green, blue = images.split(1, 1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def _mean(gray: torch.Tensor) -> torch.Tensor:
    return gray.mean((2, 3), keepdim=True)


def _float_blend(level: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * images + (1 - factor) * level).clamp_(0, 1)


def _byte_blend(level: torch.Tensor, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return (factor * images + (1 - factor) * level).clamp_(0, 255).floor_()


def _rotate_hue(images: torch.Tensor, fraction: torch.Tensor) -> torch.Tensor:
    red, green, _ = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    span = value - low
    flat = span == 0
    divisor = torch.where(flat, 1.0, span)
    to_red, to_green, to_blue = ((value - c) / divisor for c in images.unbind(1))
    sixths = torch.where(
        red == value,
        to_blue - to_green,
        torch.where(green == value, 2 + to_red - to_blue, 4 + to_green - to_red),
    )
    hue = (sixths / 6 + fraction[:, None, None]).remainder(1)
    saturation = span / torch.where(flat, 1.0, value)
    sector = (hue * 6).floor()
    rest = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - saturation * rest)
    rising = value * (1 - saturation * (1 - rest))
    return _sectors(sector.long(), value, low, falling, rising)


def _rotate_hue_of_bytes(images: torch.Tensor, fraction: torch.Tensor) -> torch.Tensor:
    # Converts back to bytes like torchvision: 256 bins of equal width, less a thousandth.
    return (_rotate_hue(images / 255, fraction) * 255.999).floor_()


PILLOW = Arithmetic(_pillow_gray, _pillow_mean, _pillow_blend, _pillow_rotate_hue)
FLOATS = Arithmetic(_gray, _mean, _float_blend, _rotate_hue)
BYTES = Arithmetic(lambda images: _gray(images).floor_(), _mean, _byte_blend, _rotate_hue_of_bytes)
