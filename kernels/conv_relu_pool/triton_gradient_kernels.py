"""The Triton kernels of gradients from that of the pooled values.

Implicit matrix multiplications as in `triton_kernels`. Each finds the maximum of every window from
its index, so that the gradient of the convolution is never written.
"""

import triton
import triton.language as tl

from mammoth_compiled.kernels.conv_relu_pool.triton_blocks import (
    dot,
    image_block,
    pixels,
    store_image_block,
    store_weight_block,
    taps,
    transposed_weight,
    weight_block,
    windows,
)


@triton.jit
def _sum_input_grad(
    program, grad, argmax, weight, grad_x, num_pixels,
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    WN: tl.constexpr, WC: tl.constexpr, WT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gathers the gradient of the convolution: that of the pooled cell whose maximum a pixel is."""
    OH: tl.constexpr = H // 2
    OW: tl.constexpr = W // 2
    first, c, y, x = image_block(program, H, W, CIN, BLOCK_M, BLOCK_N)
    pixel = first + tl.arange(0, BLOCK_M)
    # A 64-bit pointer to the image of the first pixel, and 32-bit offsets from it.
    image = first // (H * W)
    grad += image.to(tl.int64) * (OH * OW * COUT)
    argmax += image.to(tl.int64) * (OH * OW * COUT)
    number = (pixel // (H * W) - image)[:, None] * OH

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range((9 * COUT + BLOCK_K - 1) // BLOCK_K):
        tap, n = taps(step, COUT, BLOCK_K)
        w, inner = transposed_weight(weight, step, tap, n, c, CIN, COUT, WN, WC, WT, BLOCK_K)
        # An odd last row or column is in no window: its cell is out of range.
        row = y - (tap // 3)[None, :]
        column = x - (tap % 3)[None, :]
        covered = (row >= 0) & (row < OH * 2) & (column >= 0) & (column < OW * 2)
        covered = covered & (pixel < num_pixels)[:, None] & inner
        offset = ((number + (row >> 1)) * OW + (column >> 1)) * COUT + n[None, :]
        index = tl.load(argmax + offset, mask=covered, other=4)
        dz = tl.load(grad + offset, mask=covered, other=0.0)
        dz = tl.where(index == (row & 1) * 2 + (column & 1), dz, 0.0)
        total = dot(dz, w, total, PRECISION, UPCAST)
    store_image_block(grad_x, first, c, total, num_pixels, CIN)


@triton.jit
def _sum_weight_grad(
    program, grad, argmax, x, partial, num_cells, cells_per_split,
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sums over a share of the pooled cells, each with its four pixels.

    Three of the four have no gradient, but which ones differs between channels, so that the four
    multiplications cannot be merged into one.
    """
    split, block_n, m, n = weight_block(program, CIN, COUT, BLOCK_M, BLOCK_N)
    tap, c = taps(block_n, CIN, BLOCK_N)

    start = split * cells_per_split
    end = tl.minimum(start + cells_per_split, num_cells)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    total_bias = tl.zeros((BLOCK_K, BLOCK_M), tl.float32)
    for begin in range(start, end, BLOCK_K):
        cell = begin + tl.arange(0, BLOCK_K)
        images, corner, top, left = windows(x, cell, begin, H, W, CIN)
        valid = (cell < end)[:, None] & (m < COUT)[None, :]
        offset = cell.to(tl.int64)[:, None] * COUT + m[None, :]
        index = tl.load(argmax + offset, mask=valid, other=4)
        g = tl.load(grad + offset, mask=valid, other=0.0)
        total_bias += tl.where(index < 4, g, 0.0).to(tl.float32)
        valid = (cell < end)[:, None] & (n < 9 * CIN)[None, :]
        for q in tl.static_range(4):
            dz = tl.where(index == q, g, 0.0)
            b = pixels(images, corner, top, left, tap, c, valid, q // 2, q % 2, H, W, CIN)
            total = dot(tl.trans(dz), b, total, PRECISION, UPCAST)
    store_weight_block(partial, split, block_n, m, n, total, total_bias, CIN, COUT)


@triton.jit
def input_grad_kernel(
    grad,  # [B, H // 2, W // 2, COUT]
    argmax,  # like grad, int8
    weight,  # [COUT, CIN, 3, 3], strides WN, WC and WT from tap to tap
    grad_x,  # [B, H, W, CIN]
    num_pixels,  # B * H * W
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    WN: tl.constexpr, WC: tl.constexpr, WT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Computes the gradient of x."""
    _sum_input_grad(
        tl.program_id(0), grad, argmax, weight, grad_x, num_pixels,
        H, W, CIN, COUT, WN, WC, WT, PRECISION, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip


@triton.jit
def weight_grad_kernel(
    grad,  # [B, H // 2, W // 2, COUT]
    argmax,  # like grad, int8
    x,  # [B, H, W, CIN]
    partial,  # [splits, COUT * 9 * CIN + COUT], float32: weights as [COUT, 9, CIN], then biases
    num_cells,  # B * (H // 2) * (W // 2)
    cells_per_split,
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Computes shares of the gradients of weight and bias."""
    _sum_weight_grad(
        tl.program_id(0), grad, argmax, x, partial, num_cells, cells_per_split,
        H, W, CIN, COUT, PRECISION, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip


@triton.jit
def gradients_kernel(
    grad,  # [B, H // 2, W // 2, COUT]
    argmax,  # like grad, int8
    x,  # [B, H, W, CIN]
    weight,  # [COUT, CIN, 3, 3], strides WN, WC and WT from tap to tap
    grad_x,  # [B, H, W, CIN]
    partial,  # as in `weight_grad_kernel`
    num_pixels,  # B * H * W
    num_cells,  # B * (H // 2) * (W // 2)
    cells_per_split,
    input_programs,  # programs that compute grad_x
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr,
    WN: tl.constexpr, WC: tl.constexpr, WT: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,  # of grad_x
    SUM_M: tl.constexpr, SUM_N: tl.constexpr, SUM_K: tl.constexpr,  # of partial
) -> None:  # fmt: skip
    """The first programs compute the gradient of x, the others side by side those of the weight."""
    program = tl.program_id(0)
    if program < input_programs:
        _sum_input_grad(
            program, grad, argmax, weight, grad_x, num_pixels,
            H, W, CIN, COUT, WN, WC, WT, PRECISION, UPCAST, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    else:
        _sum_weight_grad(
            program - input_programs, grad, argmax, x, partial, num_cells, cells_per_split,
            H, W, CIN, COUT, PRECISION, UPCAST, SUM_M, SUM_N, SUM_K,
        )  # fmt: skip
