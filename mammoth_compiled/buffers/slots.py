"""The filled slots of a buffer: how many there are, and random draws from them."""

import torch

from mammoth_compiled.kernels.draw import draw_rows
from mammoth_compiled.kernels.runtime import device as kernel_device
from mammoth_compiled.kernels.runtime import philox
from mammoth_compiled.kernels.runtime.deferred import settle_counters

# Name of the generator among the tensors of a buffer.
DRAWS = "draws"


def draw_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Returns a generator for `FilledSlots` as DRAWS, seeded from torch's; none on a CPU."""
    if not kernel_device.supports_triton(device):
        return {}
    return {DRAWS: philox.random_state(int(torch.randint(2**62, ())), device)}


class FilledSlots:
    """Counts and samples the filled slots with as few host syncs as possible.

    Args:
        capacity: Slots of the buffer, N.
        mask: Marks the filled slots, bool, [N], on the buffer's device, updated in place by the
            buffer policy. None if slots fill in the order of the stream.
        num_filled: Number of filled slots if the host knows it; None to read it from `mask` when
            it is needed.
        random: State of the generator of `sample` on a GPU, advanced in place by each draw; see
            `draw_state`. None draws from torch's generator.

    Attributes:
        mask: As above.
        random: As above.
    """

    def __init__(
        self,
        capacity: int,
        mask: torch.Tensor | None,
        num_filled: int | None,
        random: torch.Tensor | None = None,
    ) -> None:
        self.mask = mask
        self.random = random
        self._capacity = capacity
        # A lower bound: only the device knows how many slots a policy has filled since.
        self._num_filled = num_filled or 0
        self._is_outdated = num_filled is None
        self._largest_request = 0

    def mark_outdated(self) -> None:
        """Notes that more slots may be filled by now."""
        self._is_outdated = True

    def count(self, num_seen: int, limit: int) -> int:
        """Returns the number of filled slots, at most `limit`.

        Causes a host sync only if the slots known to be filled are fewer than `limit`.

        Args:
            num_seen: Samples that the stream has offered so far.
            limit: Largest number of interest.
        """
        if self.mask is None:
            return min(limit, num_seen, self._capacity)
        self._largest_request = max(self._largest_request, limit)
        if self._is_outdated and self._num_filled < limit:
            self._num_filled, self._is_outdated = int(self.mask.sum()), False
        return min(limit, self._num_filled)

    def has_static_count(self, num_seen: int) -> bool:
        """Whether `count` returns the same from now on for every limit requested so far."""
        if self.mask is None:
            return num_seen >= self._capacity
        return self._num_filled >= self._largest_request

    def sample(self, size: int, num_seen: int, device: torch.device) -> torch.Tensor:
        """Draws filled slots uniformly without replacement.

        On a GPU with our kernels this is one launch, in which nothing is sorted. Elsewhere the
        draws are those of torch's generator.

        Args:
            size: Number of slots to draw, M; at most as many as are filled.
            num_seen: Samples that the stream has offered so far.
            device: Device of the buffer.

        Returns:
            int64, [M].
        """
        num_filled = min(num_seen, self._capacity)
        if self.random is not None:
            settle_counters(self.random[1])  # of a draw before in the same step
            count = num_filled if self.mask is None else self._capacity
            return draw_rows(size, count, self.random, mask=self.mask)
        if self.mask is None and device.type == "cpu":
            return torch.randperm(num_filled)[:size]
        # The slots with the largest random keys; empty ones come last.
        keys = torch.rand(num_filled if self.mask is None else self._capacity, device=device)
        if self.mask is not None:
            keys.masked_fill_(~self.mask, -1)
        return keys.topk(size).indices

    def kernel_draws_from(self, num_seen: int) -> int:
        """Returns n if the filled slots are 0..n-1 and a kernel can draw from them, else 0."""
        is_range = self.random is not None and self.mask is None
        return min(num_seen, self._capacity) if is_range else 0

    def indices(self, num_seen: int) -> torch.Tensor:
        """Returns all filled slots in order, int64."""
        if self.mask is None:
            return torch.arange(min(num_seen, self._capacity))
        return self.mask.nonzero()[:, 0]
