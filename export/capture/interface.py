"""What goes into an exported graph and what comes out: names, types and shapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mammoth_compiled.types import ReturnTypes

INPUT = "input"
BATCH = "batch"
FULL_PREFIX = "full_"


@dataclass(frozen=True)
class Interface:
    """The contract of every file of a bundle.

    Attributes:
        input_shape: (C, H, W) of one image, whatever its layout.
        outputs: Output name to its shape without the batch: `out` (K,), `features` (F,) where the
            backbone has them, then `full_0`, ... (c, h, w) where they were asked for.
        pixels: Whether the graph takes stored pixels, uint8 [B, H, W, C], and normalises them
            itself; else it takes normalised images, float32 [B, C, H, W].
    """

    input_shape: tuple[int, int, int]
    outputs: Mapping[str, tuple[int, ...]] = field(hash=False)
    pixels: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Type of the input."""
        return torch.uint8 if self.pixels else torch.float32

    @property
    def layout(self) -> str:
        """Order of the input's axes."""
        return "NHWC" if self.pixels else "NCHW"

    @property
    def item_shape(self) -> tuple[int, int, int]:
        """Shape of one item of the input, in the layout."""
        channels, height, width = self.input_shape
        return (height, width, channels) if self.pixels else self.input_shape

    @property
    def entries(self) -> dict[ReturnTypes, tuple[str, ...]]:
        """The return types that can be answered, each with the outputs it is made of."""
        return entries_of(tuple(self.outputs))

    @property
    def supports(self) -> tuple[ReturnTypes, ...]:
        """The return types that can be answered."""
        return tuple(self.entries)

    def example(self, batch_size: int) -> torch.Tensor:
        """Returns a black input of this form on the CPU."""
        return torch.zeros(batch_size, *self.item_shape, dtype=self.dtype, device="cpu")


def entries_of(outputs: Sequence[str]) -> dict[ReturnTypes, tuple[str, ...]]:
    """Returns the return types that some outputs can answer, each with those it is made of."""
    maps = tuple(name for name in outputs if name.startswith(FULL_PREFIX))
    possible = {
        ReturnTypes.OUT: ("out",),
        ReturnTypes.FEATURES: ("features",),
        ReturnTypes.BOTH: ("out", "features"),
        ReturnTypes.FULL: ("out", *(maps or [FULL_PREFIX])),
    }
    return {returnt: names for returnt, names in possible.items() if set(names) <= set(outputs)}
