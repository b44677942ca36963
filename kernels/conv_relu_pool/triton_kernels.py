"""The Triton kernel of convolution, ReLU and pooling.

An implicit matrix multiplication on channels-last images, whose inner dimension is tap * channels +
channel. With many channels a block of it lies within one tap and is loaded in vectors. With few, as
in a first layer, a block spans taps and is gathered, so that three channels need a depth of 32
instead of nine times 16.
"""

import triton
import triton.language as tl

from mammoth_compiled.kernels.conv_relu_pool.triton_blocks import dot, pixels, taps, windows


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def forward_kernel(
    x,  # [B, H, W, CIN]
    weight,  # [COUT, CIN, 3, 3], strides WN, WC and WT from tap to tap
    bias,  # [COUT] or None
    y,  # [B, H // 2, W // 2, COUT]
    argmax,  # like y, int8
    num_cells,  # B * (H // 2) * (W // 2)
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    WN: tl.constexpr,
    WC: tl.constexpr,
    WT: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Uses one accumulator per pixel of a window, so that the pool is a maximum of registers."""
    BLOCKS_N: tl.constexpr = (COUT + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    first = program // BLOCKS_N * BLOCK_M
    cell = first + tl.arange(0, BLOCK_M)
    n = program % BLOCKS_N * BLOCK_N + tl.arange(0, BLOCK_N)
    images, corner, top, left = windows(x, cell, first, H, W, CIN)

    z0 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    z1 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    z2 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    z3 = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    # A single loop, instead of taps around channels, since only that is pipelined.
    for step in range((9 * CIN + BLOCK_K - 1) // BLOCK_K):
        tap, c = taps(step, CIN, BLOCK_K)
        k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        offset = n[None, :] * WN + (tap * WT + c * WC)[:, None]
        valid = (k < 9 * CIN)[:, None] & (n < COUT)[None, :]
        w = tl.load(weight + offset, mask=valid, other=0.0)
        inside = (cell < num_cells)[:, None] & (k < 9 * CIN)[None, :]
        a = pixels(images, corner, top, left, tap, c, inside, 0, 0, H, W, CIN)
        z0 = dot(a, w, z0, PRECISION, UPCAST)
        a = pixels(images, corner, top, left, tap, c, inside, 0, 1, H, W, CIN)
        z1 = dot(a, w, z1, PRECISION, UPCAST)
        a = pixels(images, corner, top, left, tap, c, inside, 1, 0, H, W, CIN)
        z2 = dot(a, w, z2, PRECISION, UPCAST)
        a = pixels(images, corner, top, left, tap, c, inside, 1, 1, H, W, CIN)
        z3 = dot(a, w, z3, PRECISION, UPCAST)

    # Bias and ReLU are monotonic, so they follow the pool. The first of equal maxima wins.
    best = _maximum(_maximum(z0, z1), _maximum(z2, z3))
    index = tl.where(z0 == best, 0, tl.where(z1 == best, 1, tl.where(z2 == best, 2, 3)))
    if bias is not None:
        best += tl.load(bias + n, mask=n < COUT, other=0.0).to(tl.float32)[None, :]
    offset = cell.to(tl.int64)[:, None] * COUT + n[None, :]
    valid = (cell < num_cells)[:, None] & (n < COUT)[None, :]
    tl.store(argmax + offset, tl.where(best > 0, index, 4).to(tl.int8), mask=valid)
    tl.store(y + offset, _maximum(best, 0.0).to(y.dtype.element_ty), mask=valid)
