"""The contract of an exported graph: names, dtypes and shapes of its input and outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from mammoth_compiled.types import ReturnTypes

INPUT = "input"
BATCH = "batch"
FULL_PREFIX = "full_"

# An opened model: maps a batch of images to its outputs by name, in their order.
Run = Callable[[torch.Tensor], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Interface:
    """The contract that all model files of a bundle share.

    Attributes:
        input_shape: (C, H, W) of one image, whatever the layout of the input.
        outputs: Output name to its shape without the batch dimension: `out` (K,), `features` (F,)
            if the backbone has them, then the stage maps `full_0`, `full_1`, ... (c, h, w) if they
            are exported.
        pixels: If True, the graph takes stored pixels, uint8 [B, H, W, C], and normalizes them
            itself. If False, it takes normalized images, float32 [B, C, H, W].
    """

    input_shape: tuple[int, int, int]
    outputs: Mapping[str, tuple[int, ...]] = field(hash=False)
    pixels: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the input."""
        return torch.uint8 if self.pixels else torch.float32

    @property
    def layout(self) -> str:
        """Order of the input's dimensions."""
        return "NHWC" if self.pixels else "NCHW"

    @property
    def item_shape(self) -> tuple[int, int, int]:
        """Shape of one input item, in the order of `layout`."""
        channels, height, width = self.input_shape
        return (height, width, channels) if self.pixels else self.input_shape

    @property
    def entries(self) -> dict[ReturnTypes, tuple[str, ...]]:
        """Supported return types, each with the outputs it consists of."""
        return entries_of(tuple(self.outputs))

    @property
    def supports(self) -> tuple[ReturnTypes, ...]:
        """Supported return types."""
        return tuple(self.entries)

    def example(self, batch_size: int) -> torch.Tensor:
        """Returns an all-zero input of this form on the CPU."""
        return torch.zeros(batch_size, *self.item_shape, dtype=self.dtype, device="cpu")


def entries_of(outputs: Sequence[str]) -> dict[ReturnTypes, tuple[str, ...]]:
    """Returns the return types that these outputs can serve, each with the outputs it needs."""
    maps = tuple(name for name in outputs if name.startswith(FULL_PREFIX))
    possible = {
        ReturnTypes.OUT: ("out",),
        ReturnTypes.FEATURES: ("features",),
        ReturnTypes.BOTH: ("out", "features"),
        ReturnTypes.FULL: ("out", *(maps or [FULL_PREFIX])),
    }
    return {returnt: names for returnt, names in possible.items() if set(names) <= set(outputs)}


def dtype_name(dtype: object) -> str:
    """Returns the name of a torch or NumPy dtype without its module, as in `float32`."""
    return str(dtype).removeprefix("torch.")
