"""Counter-based random numbers: Philox 4x32-10 in plain torch, the same words as `tl.philox`.

Seed, step, row and stream determine the four words, so that a Triton kernel, the interpreter and
the references draw the same numbers, in any order and on any device. Seed and step are a tensor on
the device: a CUDA graph that advances it draws new numbers in every replay.

Source: Salmon, Moraes, Dror and Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".
"""

import torch

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

_LOW = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85


def random_state(seed: int, device: torch.device) -> torch.Tensor:
    """Returns the state of a generator: (seed, step), int64, [2], at step 0.

    Args:
        seed: Any signed 64-bit integer.
        device: Device on which numbers are drawn.
    """
    return torch.tensor([seed, 0], dtype=torch.int64, device=device)


def advance(state: torch.Tensor) -> None:
    """Advances to the next step, in place and without a host sync.

    The kernels only read the state, so that their programs cannot race. One call per training step,
    after all draws and captured with them, is enough.
    """
    state[1].add_(1)


def draw(state: torch.Tensor, rows: int, stream: int) -> Words:
    """Draws four words for each row of a batch.

    Args:
        state: (seed, step), int64, [2].
        rows: B, number of rows.
        stream: Distinguishes the draws of one step, 0 to 2^31 - 1.

    Returns:
        Four tensors, int64, [B], each uniform over 0..2^32-1.
    """
    seed, step = state[0], state[1]
    row = torch.arange(rows, device=state.device)
    counter = (step & _LOW, step >> 32 & _LOW, row, torch.full_like(row, stream))
    return philox(counter, (seed & _LOW, seed >> 32 & _LOW))


def philox(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Computes Philox 4x32-10.

    Args:
        counter: Four words, int64 in 0..2^32-1, of shapes that broadcast.
        key: Two words, likewise.

    Returns:
        Four words, likewise.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + _KEY_STEPS[0] & _LOW, k1 + _KEY_STEPS[1] & _LOW
    return c0, c1, c2, c3


def below(word: torch.Tensor, limit: int) -> torch.Tensor:
    """Maps a word to 0..limit-1 by the high half of their product.

    The probability of a number differs from 1 / limit by less than 2^-32, as for `torch.randint`.

    Args:
        word: int64 in 0..2^32-1.
        limit: At most 2^31.
    """
    return word * limit >> 32


def happens(word: torch.Tensor, probability: float) -> torch.Tensor:
    """Maps a word to an event, bool, whose probability is within 2^-33 of `probability`."""
    return word < threshold(probability)


def threshold(probability: float) -> int:
    """Returns below which word an event happens, out of 2^32."""
    return round(probability * 2**32)


def uniform(high: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Maps two words to [0, 1): float64, each multiple of 2^-53 with the same probability."""
    return (high << 21 | low >> 11).double() * 2**-53


def _multiply(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the high and low word of a product of two words, within the range of int64."""
    low = (word & 0xFFFF) * factor
    middle = (word >> 16) * factor + (low >> 16)
    return middle >> 16, (middle & 0xFFFF) << 16 | low & 0xFFFF
