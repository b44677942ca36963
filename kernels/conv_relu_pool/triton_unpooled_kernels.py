"""Triton kernels of the gradients that read the gradient of the convolution from memory.

The kernels of `triton_kernels` find the maximum of every window again for each tap. The gradient of
the convolution is four times as large as the pooled one. Once it is written, which may pay where it
stays in the cache, both gradients are plain implicit matrix multiplications, whose operands go from
memory to the tensor cores without passing through registers.
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
def unpool_kernel(
    grad,  # [B, H // 2, W // 2, COUT]
    argmax,  # like grad, int8
    dz,  # [B, H, W, COUT]
    num_elements,  # B * ceil(H / 2) * ceil(W / 2) * COUT
    H: tl.constexpr,
    W: tl.constexpr,
    COUT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Writes each pooled gradient to the maximum of its window, and zero to the other pixels.

    An odd last row or column is in no window; it is written as the part of a window that lies
    inside the image, without a gradient.
    """
    OH: tl.constexpr = H // 2
    OW: tl.constexpr = W // 2
    ROWS: tl.constexpr = (H + 1) // 2
    COLUMNS: tl.constexpr = (W + 1) // 2
    IMAGE: tl.constexpr = ROWS * COLUMNS * COUT
    first = tl.program_id(0).to(tl.int64) * BLOCK
    image = first // IMAGE
    grad += image * (OH * OW * COUT)
    argmax += image * (OH * OW * COUT)
    dz += image * (H * W * COUT)
    # From the first image on, 32 bits suffice.
    i = (first - image * IMAGE).to(tl.int32) + tl.arange(0, BLOCK)
    inside = first + tl.arange(0, BLOCK) < num_elements
    c = i % COUT
    column = i // COUT % COLUMNS
    row = i // (COUT * COLUMNS) % ROWS
    number = i // IMAGE
    offset = ((number * OH + row) * OW + column) * COUT + c
    pooled = inside & (row < OH) & (column < OW)
    index = tl.load(argmax + offset, mask=pooled, other=4)
    g = tl.load(grad + offset, mask=pooled, other=0.0)
    offset = ((number * H + row * 2) * W + column * 2) * COUT + c
    for q in tl.static_range(4):
        valid = inside
        if H % 2 == 1:
            valid = valid & (row * 2 + q // 2 < H)
        if W % 2 == 1:
            valid = valid & (column * 2 + q % 2 < W)
        value = tl.where(index == q, g, 0.0)
        tl.store(dz + offset + (q // 2 * W + q % 2) * COUT, value, mask=valid)


@triton.jit
def _sum_input_grad(
    program,
    dz,
    weight,
    grad_x,
    num_pixels,
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
):
    """Convolves the gradient of the convolution with the mirrored weight."""
    first, c, y, x = image_block(program, H, W, CIN, BLOCK_M, BLOCK_N)
    local = tl.arange(0, BLOCK_M)
    pixel = first + local
    # A 64-bit pointer to the first pixel, and 32-bit offsets from it.
    dz += first.to(tl.int64) * COUT

    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range((9 * COUT + BLOCK_K - 1) // BLOCK_K):
        tap, n = taps(step, COUT, BLOCK_K)
        w, inner = transposed_weight(weight, step, tap, n, c, CIN, COUT, WN, WC, WT, BLOCK_K)
        row = y - (tap // 3)[None, :]
        column = x - (tap % 3)[None, :]
        covered = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        covered = covered & (pixel < num_pixels)[:, None] & inner
        shift = (1 - tap // 3) * W + 1 - tap % 3
        offset = local[:, None] * COUT + (shift * COUT + n)[None, :]
        a = tl.load(dz + offset, mask=covered, other=0.0)
        total = dot(a, w, total, PRECISION, UPCAST)
    store_image_block(grad_x, first, c, total, num_pixels, CIN)


@triton.jit
def _sum_weight_grad(
    program,
    dz,
    x,
    partial,
    num_pixels,
    pixels_per_split,
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Sums the products of pixels and gradients over a share of the pixels."""
    split, block_n, m, n = weight_block(program, CIN, COUT, BLOCK_M, BLOCK_N)
    tap, c = taps(block_n, CIN, BLOCK_N)
    shift = ((tap // 3 - 1) * W + tap % 3 - 1) * CIN + c

    start = split * pixels_per_split
    end = tl.minimum(start + pixels_per_split, num_pixels)
    # 64-bit pointers to the first pixel of the share, and 32-bit offsets from it.
    dz += start.to(tl.int64) * COUT
    x += start.to(tl.int64) * CIN
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    total_bias = tl.zeros((BLOCK_K, BLOCK_M), tl.float32)
    for begin in range(start, end, BLOCK_K):
        pixel = begin + tl.arange(0, BLOCK_K)
        local = pixel - start
        inside = (pixel < end)[:, None]
        offset = local[:, None] * COUT + m[None, :]
        a = tl.load(dz + offset, mask=inside & (m < COUT)[None, :], other=0.0)
        row = (pixel // W % H)[:, None] + (tap // 3 - 1)[None, :]
        column = (pixel % W)[:, None] + (tap % 3 - 1)[None, :]
        valid = inside & (n < 9 * CIN)[None, :]
        valid = valid & (row >= 0) & (row < H) & (column >= 0) & (column < W)
        b = tl.load(x + (local[:, None] * CIN + shift[None, :]), mask=valid, other=0.0)
        total = dot(tl.trans(a), b, total, PRECISION, UPCAST)
        total_bias += a.to(tl.float32)
    store_weight_block(partial, split, block_n, m, n, total, total_bias, CIN, COUT)


@triton.jit
def plain_gradients_kernel(
    dz,  # [B, H, W, COUT]
    x,  # [B, H, W, CIN]
    weight,  # [COUT, CIN, 3, 3], strides WN, WC and WT from tap to tap
    grad_x,  # [B, H, W, CIN] or None
    partial,  # [splits, COUT * 9 * CIN + COUT], float32: [COUT, 9, CIN], then biases; or None
    num_pixels,  # B * H * W
    pixels_per_split,
    input_programs,  # programs that compute grad_x
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    WN: tl.constexpr,
    WC: tl.constexpr,
    WT: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr,  # of grad_x
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SUM_M: tl.constexpr,  # of partial
    SUM_N: tl.constexpr,
    SUM_K: tl.constexpr,
) -> None:
    """The first programs compute the gradient of x, the others side by side that of the weight."""
    program = tl.program_id(0)
    if partial is None:
        _sum_input_grad(
            program,
            dz,
            weight,
            grad_x,
            num_pixels,
            H,
            W,
            CIN,
            COUT,
            WN,
            WC,
            WT,
            PRECISION,
            UPCAST,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    elif grad_x is None:
        _sum_weight_grad(
            program,
            dz,
            x,
            partial,
            num_pixels,
            pixels_per_split,
            H,
            W,
            CIN,
            COUT,
            PRECISION,
            UPCAST,
            SUM_M,
            SUM_N,
            SUM_K,
        )
    elif program < input_programs:
        _sum_input_grad(
            program,
            dz,
            weight,
            grad_x,
            num_pixels,
            H,
            W,
            CIN,
            COUT,
            WN,
            WC,
            WT,
            PRECISION,
            UPCAST,
            BLOCK_M,
            BLOCK_N,
            BLOCK_K,
        )
    else:
        _sum_weight_grad(
            program - input_programs,
            dz,
            x,
            partial,
            num_pixels,
            pixels_per_split,
            H,
            W,
            CIN,
            COUT,
            PRECISION,
            UPCAST,
            SUM_M,
            SUM_N,
            SUM_K,
        )
