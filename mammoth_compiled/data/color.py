"""Brightness, contrast, saturation and hue of a batch, image by image: the reference.

Three arithmetics of the same four steps: that of Pillow on bytes, and that of torchvision on
tensors of floats in [0, 1] and of bytes. Bytes are whole numbers in float32 on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Arithmetic:
    """How images of one kind are computed with; all tensors float32.

    Attributes:
        gray: Maps images [B, 3, H, W] to their gray levels, [B, 1, H, W].
        mean: Maps gray levels [B, 1, H, W] to their mean, [B, 1, 1, 1].
        blend: Maps gray levels, images and factors to level + factor * (image - level).
        turn_hue: Turns the hue of images [B, 3, H, W] by parts of a turn, [B].
    """

    gray: Callable[[torch.Tensor], torch.Tensor]
    mean: Callable[[torch.Tensor], torch.Tensor]
    blend: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    turn_hue: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def jitter(
    images: torch.Tensor,
    order: torch.Tensor,
    factors: Sequence[torch.Tensor | None],
    arithmetic: Arithmetic,
) -> torch.Tensor:
    """Changes the colors of every image by its own factors, in its own order.

    Args:
        images: [B, C, H, W], C 1 or 3, uint8 or float in [0, 1].
        order: What is done first to last: a permutation of 0 brightness, 1 contrast, 2 saturation,
            3 hue for each image, int64, [B, 4].
        factors: Of brightness, contrast and saturation, and the part of a turn, -0.5 to 0.5, of
            hue: each float32, [B], or None to leave the step out.
        arithmetic: `PILLOW` for bytes of Pillow images, else `FLOATS` or `BYTES` by the dtype.

    Returns:
        [B, C, H, W], same dtype. With `PILLOW` equal to Pillow's; otherwise torchvision's but for
        the rounding of float32, which can move a byte by one level.
    """
    result, place = images.float(), order.argsort(1)
    colored = images.shape[1] == 3
    # A gray image has neither saturation nor hue.
    hue = factors[3] if colored else None
    blends = {k: f for k, f in enumerate(factors[: 3 if colored else 2]) if f is not None}
    if blends:
        places = torch.stack([place[:, kind] for kind in blends], 1)
        turns = places.argsort(1)
        shares = torch.stack(list(blends.values()), 1).gather(1, turns)
        early = places.gather(1, turns) < place[:, 3:]
        # Hue is the expensive step and taken once: a share of 1 puts off a blend to behind it.
        before = shares if hue is None else torch.where(early, shares, 1.0)
        result = _blend(result, list(blends), turns, before, arithmetic)
    if hue is not None:
        result = arithmetic.turn_hue(result, hue)
        if blends:
            after = torch.where(early, 1.0, shares)
            result = _blend(result, list(blends), turns, after, arithmetic)
    return result.to(images.dtype)


def _blend(
    images: torch.Tensor,
    kinds: Sequence[int],
    turns: torch.Tensor,
    factors: torch.Tensor,
    arithmetic: Arithmetic,
) -> torch.Tensor:
    """Blends each image with black, its mean or its gray image: turn by turn, by index in kinds."""
    for turn, factor in zip(turns.unbind(1), factors.unbind(1), strict=True):
        level = torch.zeros_like(images[:, :1])
        if kinds != [0]:
            gray = images if images.shape[1] == 1 else arithmetic.gray(images)
            for index, kind in enumerate(kinds):
                if kind > 0:
                    degenerate = arithmetic.mean(gray) if kind == 1 else gray
                    level = torch.where(_per_image(turn == index), degenerate, level)
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


def _pillow_turn_hue(images: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    hue, saturation, value = pillow_hsv(images)
    shift = (part.double() * 255).trunc().float()
    return pillow_rgb((hue + shift[:, None, None]).remainder(256), saturation, value)


def pillow_hsv(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns hue, saturation and value, [B, H, W] in 0..255, of bytes [B, 3, H, W].

    Floats and doubles take turns as in Pillow, so all 2^24 colors come out equal to its.
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
    """Returns the images [B, 3, H, W] of what `pillow_hsv` returns, equal to Pillow's as well."""
    sixths = hue.double() * 6 / 255
    sector = sixths.floor()
    part = (sixths - sector).float()
    strength = saturation / 255
    low = value * (1 - strength.double())
    falling = value * (1 - (strength * part).double())
    rising = value * (1 - strength.double() * (1 - part.double()))
    # Half a level is rounded up, from a float.
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
    """Returns the colors [B, 3, H, W] of the sixths of a turn, int64, [B, H, W] in 0..6."""
    turn = (value, falling, low, low, rising, value)
    # Green is two sixths behind red, blue four; a second turn saves the remainders by six.
    choices = torch.stack((*turn, *turn)).flatten()
    places = torch.stack((sector, sector + 4, sector + 2), 1)
    pixel = torch.arange(value.numel(), device=value.device).view_as(value)[:, None]
    # One flat gather is many times faster on a CPU than one along the first dimension.
    index = places * value.numel() + pixel
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


def _turn_hue(images: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
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
    hue = (sixths / 6 + part[:, None, None]).remainder(1)
    saturation = span / torch.where(flat, 1.0, value)
    sector = (hue * 6).floor()
    rest = hue * 6 - sector
    low = value * (1 - saturation)
    falling = value * (1 - saturation * rest)
    rising = value * (1 - saturation * (1 - rest))
    return _sectors(sector.long(), value, low, falling, rising)


def _turn_hue_of_bytes(images: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    # The way back to bytes is torchvision's: 256 bins of equal width, less a thousandth.
    return (_turn_hue(images / 255, part) * 255.999).floor_()


PILLOW = Arithmetic(_pillow_gray, _pillow_mean, _pillow_blend, _pillow_turn_hue)
FLOATS = Arithmetic(_gray, _mean, _float_blend, _turn_hue)
BYTES = Arithmetic(lambda images: _gray(images).floor_(), _mean, _byte_blend, _turn_hue_of_bytes)
