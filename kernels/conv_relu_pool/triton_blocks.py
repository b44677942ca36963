"""Blocks that the kernels share: windows, operands, indices, results."""

import triton
import triton.language as tl


@triton.jit
def taps(number, CHANNELS: tl.constexpr, BLOCK: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """Returns taps and channels of a block of the inner dimension; one tap if it lies in one."""
    if CHANNELS % BLOCK == 0:
        # In units of blocks, so that the compiler sees that channels begin at a multiple of BLOCK.
        tap = tl.full((1,), number // (CHANNELS // BLOCK), tl.int32)
        channel = number % (CHANNELS // BLOCK) * BLOCK + tl.arange(0, BLOCK)
    else:
        k = number * BLOCK + tl.arange(0, BLOCK)
        tap = k // CHANNELS
        channel = k % CHANNELS
    return tap, channel


@triton.jit
def windows(
    x, cell, first, H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
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
def pixels(
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
) -> tl.tensor:
    """Loads x, [cells, inner], for the pixel (I, J) of every window; zero outside an image."""
    row = tap // 3 + I
    column = tap % 3 + J
    y = top[:, None] + row[None, :]
    x = left[:, None] + column[None, :]
    valid = inside & (y >= 0) & (y < H) & (x >= 0) & (x < W)
    offset = (row * W + column) * CIN + channel
    return tl.load(images + (corner[:, None] + offset[None, :]), mask=valid, other=0.0)


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr, UPCAST: tl.constexpr) -> tl.tensor:
    """Adds a product; the interpreter cannot multiply bfloat16, so there it is float32."""
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def transposed_weight(
    weight,
    step,
    tap,
    n,
    c,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    WN: tl.constexpr,
    WC: tl.constexpr,
    WT: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Loads the weight as [inner, CIN] for the gradient of the images.

    Returns it, and which numbers of the block of the inner dimension, [1, inner], exist.
    """
    k = step * BLOCK_K + tl.arange(0, BLOCK_K)
    offset = (n * WN + tap * WT)[:, None] + c[None, :] * WC
    valid = (k < 9 * COUT)[:, None] & (c < CIN)[None, :]
    return tl.load(weight + offset, mask=valid, other=0.0), (k < 9 * COUT)[None, :]


@triton.jit
def image_block(
    program,
    H: tl.constexpr,
    W: tl.constexpr,
    CIN: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Locates the block of the images' gradient that a program computes.

    Returns its first pixel, its channels, and row and column of each pixel, [pixels, 1], plus one.
    """
    BLOCKS_N: tl.constexpr = (CIN + BLOCK_N - 1) // BLOCK_N
    first = program // BLOCKS_N * BLOCK_M
    pixel = first + tl.arange(0, BLOCK_M)
    c = program % BLOCKS_N * BLOCK_N + tl.arange(0, BLOCK_N)
    return first, c, (pixel // W % H)[:, None] + 1, (pixel % W)[:, None] + 1


@triton.jit
def store_image_block(grad_x, first, c, total, num_pixels, CIN: tl.constexpr) -> None:
    """Stores a block of the images' gradient."""
    pixel = first + tl.arange(0, total.shape[0])
    offset = pixel.to(tl.int64)[:, None] * CIN + c[None, :]
    valid = (pixel < num_pixels)[:, None] & (c < CIN)[None, :]
    tl.store(grad_x + offset, total.to(grad_x.dtype.element_ty), mask=valid)


@triton.jit
def weight_block(
    program,
    CIN: tl.constexpr,
    COUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Locates the block of the weight gradient that a program sums over its share of the images.

    Returns the number of the share, that of the block along the second dimension, and the numbers
    of rows (output channels) and columns (taps and input channels).
    """
    BLOCKS_M: tl.constexpr = (COUT + BLOCK_M - 1) // BLOCK_M
    BLOCKS_N: tl.constexpr = (9 * CIN + BLOCK_N - 1) // BLOCK_N
    split = program // (BLOCKS_M * BLOCKS_N)
    block_n = program % BLOCKS_N
    m = program // BLOCKS_N % BLOCKS_M * BLOCK_M + tl.arange(0, BLOCK_M)
    return split, block_n, m, block_n * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def store_weight_block(
    partial, split, block_n, m, n, total, total_bias, CIN: tl.constexpr, COUT: tl.constexpr
) -> None:
    """Stores the sums of a share, and the bias gradient once: [COUT, 9, CIN], then [COUT]."""
    partial += split.to(tl.int64) * (COUT * (9 * CIN + 1))
    valid = (m < COUT)[:, None] & (n < 9 * CIN)[None, :]
    tl.store(partial + m[:, None] * (9 * CIN) + n[None, :], total, mask=valid)
    valid = (m < COUT) & (block_n == 0)
    tl.store(partial + COUT * 9 * CIN + m, tl.sum(total_bias, 0), mask=valid)
