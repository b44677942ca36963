"""The backbone in float64, which tells rounding errors from wrong results.

Some backbones amplify rounding errors: instance norm of a constant image divides what rounding
left of zero by sqrt(eps). Two correct float32 programs then differ by more than a bound relative to
the outputs. How much depends on the images, and eager mode itself shows it: by the distance of its
outputs from float64 for images that are equal up to rounding.
"""

import copy
import math
from collections.abc import Iterator

import torch
from torch.nn import functional as F

from mammoth_compiled.export.capture.graph import NamedOutputs

# Errors of a sum of n rounded numbers grow like sqrt(n) (Higham and Mary 2019, "A New Approach to
# Probabilistic Rounding Error Analysis"), and runtimes add up the pixels of a map in another order
# and grouping than torch. Random images stay far below; ONNX Runtime's group norm of constant maps
# of 224 x 224 pixels needs 3.2 of the 4.
FACTOR = 4.0

# A unit in the last place of float32 numbers between 1 and 2.
_ROUNDING = 2.0**-23
# Cells per side in which the images are changed alike; None changes every pixel on its own. Some
# errors cancel out over many pixels, others over equal ones.
_CELLS = (None, 2, 4)


class Float64:
    """A graph in float64, built when it is first needed.

    Args:
        graph: The graph in float32, on the CPU.
    """

    def __init__(self, graph: NamedOutputs) -> None:
        self._graph = graph
        self._double: NamedOutputs | None = None
        # The images are kept, because their id is only theirs while they exist.
        self._known: dict[
            tuple[int, str], tuple[torch.Tensor, tuple[torch.Tensor, float] | None]
        ] = {}

    def evaluate(self, name: str, input: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        """Computes an output in float64, and how far a correct float32 program may be from it.

        Args:
            name: The output.
            input: A batch as the graph takes it.

        Returns:
            The output, float64 [B, ...]; and `FACTOR` * sqrt(H * W) times the largest error of
            eager mode for the images and for images that differ from them by rounding. None if the
            backbone does not compute in float64, for instance because it casts to float32.
        """
        key = id(input), name
        if key not in self._known:
            try:
                result = self._evaluate(name, input)
            except Exception:  # user code may raise anything, such as that dtypes differ
                result = None
            self._known[key] = input, result
        return self._known[key][1]

    def _evaluate(self, name: str, input: torch.Tensor) -> tuple[torch.Tensor, float] | None:
        if self._double is None:
            self._double = copy.deepcopy(self._graph).double()
        # In float32, so that both compute from the same images.
        images = self._graph.preprocessing(input)
        exact = self._double.compute_from(images.double(), (name,))[name]
        if exact.dtype != torch.float64 or not exact.isfinite().all():
            return None
        error = 0.0
        for similar in (images, *_rounded_otherwise(images)):
            values = self._graph.compute_from(similar, (name,))[name]
            error = max(error, (values - exact).abs().max().item())
        return exact, FACTOR * math.sqrt(images.shape[2] * images.shape[3]) * error


def _rounded_otherwise(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yields images [B, C, H, W] that differ from the given ones by rounding only."""
    generator = torch.Generator().manual_seed(0)
    height, width = images.shape[2:]
    for cells in _CELLS:
        size = (height, width) if cells is None else (cells, cells)
        signs = 2.0 * torch.randint(0, 2, (*images.shape[:2], *size), generator=generator) - 1
        signs = F.interpolate(signs, (height, width))
        yield images + _ROUNDING * signs * images.abs().clamp(min=1)
