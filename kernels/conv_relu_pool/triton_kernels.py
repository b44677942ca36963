"""The Triton kernels of convolution, ReLU and pooling.

Implicit matrix multiplications on channels-last images, whose inner dimension is tap * channels +
channel. With many channels a block of it lies within one tap and is loaded in vectors. With few, as
in a first layer, a block spans taps and is gathered, so that three channels need a depth of 32
instead of nine times 16.
"""

import triton
import triton.language as tl

from mammoth_compiled.kernels.conv_relu_pool.triton_blocks import (
    dot,
    image_block,
    store_image_block,
    store_weight_block,
    taps,
    transposed_weight,
    weight_block,
)


@triton.jit
def _windows(x, cell, first, H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr):
    """Locates the 4x4 input pixels of pooled cells, of which `first` is one.

    Returns a pointer to the image of `first`, and for each cell the offset from it, row and column:
    one 64-bit pointer and 32-bit offsets take far fewer registers than many pointers.
    """
    OH: tl.constexpr = H // 2
    OW: tl.constexpr = W // 2
    image = first // (OH * OW)
    top = cell // OW % OH * 2 - 1
    left = cell % OW * 2 - 1
    offset = (((cell // (OH * OW) - image) * H + top) * W + left) * CIN
    return x + image.to(tl.int64) * (H * W * CIN), offset, top, left


@triton.jit
def _pixels(
    images,
    corner,
    top,
    left,
    tap,
    channel,
    inside,
    I: tl.constexpr,  # noqa: E741
    J: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
):
    """Loads x, [cells, inner], for the pixel (I, J) of every window; zero outside an image."""
    row = tap // 3 + I
    column = tap % 3 + J
    y = top[:, None] + row[None, :]
    x = left[:, None] + column[None, :]
    valid = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    offset = (row * W + column) * CIN + channel
    return tl.load(images + (corner[:, None] + offset[None, :]), mask=valid, other=0.0)


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
    images, corner, top, left = _windows(x, cell, first, H, W, CIN)

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
        a = _pixels(images, corner, top, left, tap, c, inside, 0, 0, H, W, CIN)
        z0 = dot(a, w, z0, PRECISION, UPCAST)
        a = _pixels(images, corner, top, left, tap, c, inside, 0, 1, H, W, CIN)
        z1 = dot(a, w, z1, PRECISION, UPCAST)
        a = _pixels(images, corner, top, left, tap, c, inside, 1, 0, H, W, CIN)
        z2 = dot(a, w, z2, PRECISION, UPCAST)
        a = _pixels(images, corner, top, left, tap, c, inside, 1, 1, H, W, CIN)
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


@triton.jit
def input_grad_kernel(
    grad,  # [B, H // 2, W // 2, COUT]
    argmax,  # like grad, int8
    weight,  # [COUT, CIN, 3, 3], strides WN, WC and WT from tap to tap
    grad_x,  # [B, H, W, CIN]
    num_pixels,  # B * H * W
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
    """Gathers the gradient of the convolution: that of the pooled cell whose maximum a pixel is."""
    OH: tl.constexpr = H // 2
    OW: tl.constexpr = W // 2
    first, c, y, x = image_block(tl.program_id(0), H, W, CIN, BLOCK_M, BLOCK_N)
    pixel = first + tl.arange(0, BLOCK_M)
    # A 64-bit pointer to the image of the first pixel, and 32-bit offsets from it.
    image = first // (H * W)
    grad += image.to(tl.int64) * (OH * OW * COUT)
    argmax += image.to(tl.int64) * (OH * OW * COUT)
    image = (pixel // (H * W) - image)[:, None] * OH

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range((9 * COUT + BLOCK_K - 1) // BLOCK_K):
        tap, n = taps(step, COUT, BLOCK_K)
        w, inner = transposed_weight(weight, step, tap, n, c, CIN, COUT, WN, WC, WT, BLOCK_K)
        # An odd last row or column is in no window: its cell is out of range.
        row = y - (tap // 3)[None, :]
        column = x - (tap % 3)[None, :]
        covered = (row >= 0) & (row < OH * 2) & (column >= 0) & (column < OW * 2)
        covered = covered & (pixel < num_pixels)[:, None] & inner
        offset = ((image + (row >> 1)) * OW + (column >> 1)) * COUT + n[None, :]
        index = tl.load(argmax + offset, mask=covered, other=4)
        dz = tl.load(grad + offset, mask=covered, other=0.0)
        dz = tl.where(index == (row & 1) * 2 + (column & 1), dz, 0.0)
        total = dot(dz, w, total, PRECISION, UPCAST)
    store_image_block(grad_x, first, c, total, num_pixels, CIN)


@triton.jit
def weight_grad_kernel(
    grad,  # [B, H // 2, W // 2, COUT]
    argmax,  # like grad, int8
    x,  # [B, H, W, CIN]
    partial,  # [splits, COUT * 9 * CIN + COUT], float32: weights as [COUT, 9, CIN], then biases
    num_cells,  # B * (H // 2) * (W // 2)
    cells_per_split,
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:
    """Sums over a share of the pooled cells, each with its four pixels.

    Three of the four have no gradient, but which ones differs between channels, so that the four
    multiplications cannot be merged into one.
    """
    program = tl.program_id(0)
    split, block_n, m, n = weight_block(program, CIN, COUT, BLOCK_M, BLOCK_N)
    tap, c = taps(block_n, CIN, BLOCK_N)

    start = split * cells_per_split
    end = tl.minimum(start + cells_per_split, num_cells)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    total_bias = tl.zeros((BLOCK_K, BLOCK_M), tl.float32)
    for begin in range(start, end, BLOCK_K):
        cell = begin + tl.arange(0, BLOCK_K)
        images, corner, top, left = _windows(x, cell, begin, H, W, CIN)
        valid = (cell < end)[:, None] & (m < COUT)[None, :]
        offset = cell.to(tl.int64)[:, None] * COUT + m[None, :]
        index = tl.load(argmax + offset, mask=valid, other=4)
        g = tl.load(grad + offset, mask=valid, other=0.0)
        total_bias += tl.where(index < 4, g, 0.0).to(tl.float32)
        valid = (cell < end)[:, None] & (n < 9 * CIN)[None, :]
        for q in tl.static_range(4):
            dz = tl.where(index == q, g, 0.0)
            b = _pixels(images, corner, top, left, tap, c, valid, q // 2, q % 2, H, W, CIN)
            total = dot(tl.trans(dz), b, total, PRECISION, UPCAST)
    store_weight_block(partial, split, block_n, m, n, total, total_bias, CIN, COUT)


@triton.jit
def sum_partial_kernel(
    partial,  # [splits, COUT * 9 * CIN + COUT], float32
    grad_weight,  # [COUT, CIN, 3, 3], strides WN, WC, WY and WX
    grad_bias,  # [COUT]
    splits,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    WN: tl.constexpr,
    WC: tl.constexpr,
    WY: tl.constexpr,
    WX: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_S: tl.constexpr,
) -> None:
    """Adds up the partial sums of a weight gradient, in a fixed order."""
    SIZE: tl.constexpr = COUT * 9 * CIN
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    for start in range(0, splits, BLOCK_S):
        split = start + tl.arange(0, BLOCK_S)
        valid = (split < splits)[:, None] & (i < SIZE + COUT)[None, :]
        offset = split.to(tl.int64)[:, None] * (SIZE + COUT) + i[None, :]
        total += tl.load(partial + offset, mask=valid, other=0.0)
    value = tl.sum(total, 0).to(grad_weight.dtype.element_ty)
    tap = i // CIN % 9
    offset = i // (9 * CIN) * WN + i % CIN * WC + tap // 3 * WY + tap % 3 * WX
    tl.store(grad_weight + offset, value, mask=i < SIZE)
    tl.store(grad_bias + i - SIZE, value, mask=(i >= SIZE) & (i < SIZE + COUT))
