"""A linear layer with mean cross-entropy in two Triton kernels.

The first splits the features among programs and writes partial logits. In the second, a program
owns some features: it sums the partial logits of all rows, applies the softmax, and computes its
part of the gradients of x and weight, which is complete. Each program does that again, which costs
less than a third launch or a wait for other programs, and sums have the same order in each run.
"""

import torch
import triton
import triton.language as tl

from mammoth_compiled.kernels.linear_cross_entropy.op import MAX_SPLITS, NUM_PROGRAMS
from mammoth_compiled.kernels.runtime.launch import ceil_div, launch
from mammoth_compiled.kernels.runtime.tiles import TileConfig, select_tile


@triton.jit
def _dot(a, b, acc, T: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    if UPCAST:
        return tl.dot(a.to(T).to(tl.float32), b.to(T).to(tl.float32), acc, input_precision="ieee")
    return tl.dot(a.to(T), b.to(T), acc, input_precision=PRECISION)


@triton.jit
def _column(f, F: tl.constexpr, CHANNELS: tl.constexpr):
    """Returns the column of the weight that a feature belongs to; see `reference`."""
    if CHANNELS > 1:
        f = f % CHANNELS * (F // CHANNELS) + f // CHANNELS
    return f


@triton.jit
def partial_kernel(
    x,  # [B, F]
    weight,  # [K, F]
    partial,  # [SPLITS, B, KP], float32
    B: tl.constexpr, F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr,
    SPLITS: tl.constexpr,
    PER_SPLIT: tl.constexpr,  # features
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_F: tl.constexpr,
) -> None:  # fmt: skip
    """A program multiplies some rows with the weight, over PER_SPLIT features."""
    T: tl.constexpr = x.dtype.element_ty
    split = tl.program_id(0) % SPLITS
    row = tl.program_id(0) // SPLITS * BLOCK_B + tl.arange(0, BLOCK_B)
    k = tl.arange(0, KP)
    acc = tl.zeros((BLOCK_B, KP), tl.float32)
    for start in range(0, PER_SPLIT, BLOCK_F):
        f = split * PER_SPLIT + start + tl.arange(0, BLOCK_F)
        features = f[None, :] < F
        xs = tl.load(x + row[:, None] * F + f[None, :], (row < B)[:, None] & features, other=0.0)
        column = _column(f, F, CHANNELS)[None, :]
        ws = tl.load(weight + k[:, None] * F + column, (k < K)[:, None] & features, other=0.0)
        acc = _dot(xs, tl.trans(ws), acc, T, PRECISION, UPCAST)
    target = partial + split * B * KP + row[:, None] * KP + k[None, :]
    tl.store(target, acc, mask=(row < B)[:, None])


@triton.jit
def gradient_kernel(
    x,  # [B, F]
    weight,  # [K, F]
    bias,  # [K]
    labels,  # [B], int64
    partial,  # [SPLITS, B, KP], float32
    loss,  # [1], float32
    grad_x,  # [B, F]
    grad_weight,  # [K, F]
    grad_bias,  # [K]
    ignore_index,
    B: tl.constexpr, F: tl.constexpr, K: tl.constexpr, KP: tl.constexpr,
    SPLITS: tl.constexpr, HAS_BIAS: tl.constexpr, BLOCK_LABELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_S: tl.constexpr,
) -> None:  # fmt: skip
    """A program computes gradients of BLOCK_F features; the first one also loss and grad_bias."""
    T: tl.constexpr = x.dtype.element_ty
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    features = f[None, :] < F
    k = tl.arange(0, KP)
    classes = k < K
    every = tl.arange(0, BLOCK_LABELS)
    every_label = tl.load(labels + every, every < B, other=ignore_index)
    count = tl.sum((every_label != ignore_index).to(tl.float32), 0)
    column = _column(f, F, CHANNELS)[None, :]
    ws = tl.load(weight + k[:, None] * F + column, classes[:, None] & features, other=0.0)
    grad_w = tl.zeros((KP, BLOCK_F), tl.float32)
    grad_b = tl.zeros((KP,), tl.float32)
    total = tl.zeros((BLOCK_B,), tl.float32)
    for start in range(0, B, BLOCK_B):
        row = start + tl.arange(0, BLOCK_B)
        rows = row < B
        z = tl.zeros((BLOCK_B, KP), tl.float32)
        for first in range(0, SPLITS, BLOCK_S):
            # Several at a time, since each load waits for the second-level cache.
            split = first + tl.arange(0, BLOCK_S)
            at = split[:, None, None] * (B * KP) + row[None, :, None] * KP + k[None, None, :]
            there = (split < SPLITS)[:, None, None] & rows[None, :, None]
            z += tl.sum(tl.load(partial + at, there, other=0.0), 0)
        if HAS_BIAS:
            z += tl.load(bias + k, classes, other=0.0).to(tl.float32)[None, :]
        z = tl.where(classes[None, :], z, float("-inf"))
        z -= tl.max(z, 1)[:, None]
        e = tl.exp(z)
        norm = tl.sum(e, 1)
        label = tl.load(labels + row, rows, other=ignore_index)
        valid = label != ignore_index
        hot = k[None, :] == label[:, None]
        own = tl.sum(tl.where(hot, z, 0.0), 1)
        total += tl.where(valid, tl.log(norm) - own, 0.0)
        d = (e / norm[:, None] - hot.to(tl.float32)) / count
        d = tl.where(valid[:, None] & classes[None, :], d, 0.0)
        xs = tl.load(x + row[:, None] * F + f[None, :], rows[:, None] & features, other=0.0)
        zero = tl.zeros((BLOCK_B, BLOCK_F), tl.float32)
        grad = _dot(d, ws, zero, T, PRECISION, UPCAST)
        tl.store(grad_x + row[:, None] * F + f[None, :], grad.to(T), rows[:, None] & features)
        grad_w = _dot(tl.trans(d), xs, grad_w, T, PRECISION, UPCAST)
        grad_b += tl.sum(d, 0)
    target = grad_weight + k[:, None] * F + column
    tl.store(target, grad_w.to(grad_weight.dtype.element_ty), classes[:, None] & features)
    if tl.program_id(0) == 0:
        tl.store(grad_bias + k, grad_b.to(grad_bias.dtype.element_ty), classes)
        tl.store(loss, tl.sum(total, 0) / count)


def loss_and_grads(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    ignore_index: int,
    precision: str,
    channels: int = 1,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Computes the loss and all gradients; see `reference.loss_and_grads`.

    Args:
        x: [B, F].
        weight: [K, F], in the dtype of x or float32; like x, it is read contiguous.
        bias: [K], likewise, or None.
        labels: int64, [B].
        ignore_index: Rows with this label do not count.
        precision: "tf32" or "ieee", of float32 multiplications.
        channels: C, if features are in the order of channels-last images; else 1.
    """
    x, weight = x.contiguous(), weight.contiguous()
    batch, features = x.shape
    classes = weight.shape[0]
    tile, padded, splits, per_split = _plan(x, weight)
    partial = torch.empty((splits, batch, padded), dtype=torch.float32, device=x.device)
    constants = {
        "B": batch,
        "F": features,
        "K": classes,
        "KP": padded,
        "SPLITS": splits,
        "CHANNELS": channels,
        "PRECISION": precision,
    }
    grid = ceil_div(batch, tile["BLOCK_B"]) * splits
    args = (x, weight, partial)
    launch(partial_kernel, (grid,), *args, config=tile, PER_SPLIT=per_split, **constants)

    loss = torch.empty((1,), dtype=torch.float32, device=x.device)
    grads = torch.empty_like(x), torch.empty_like(weight)
    grad_bias = weight.new_empty((classes,)) if bias is None else torch.empty_like(bias)
    tile = _tile("gradient", x, weight)
    launch(
        gradient_kernel,
        (ceil_div(features, tile["BLOCK_F"]),),
        *(x, weight, weight if bias is None else bias, labels, partial, loss),
        *(*grads, grad_bias, ignore_index),
        config=tile,
        HAS_BIAS=bias is not None,
        BLOCK_LABELS=triton.next_power_of_2(batch),
        **constants,
    )
    return loss.view(()), *grads, grad_bias


def _plan(x: torch.Tensor, weight: torch.Tensor) -> tuple[TileConfig, int, int, int]:
    """Returns the tile of the first kernel, classes padded, splits, and features of a split."""
    tile = _tile("partial", x, weight)
    steps = ceil_div(x.shape[1], tile["BLOCK_F"])
    blocks = ceil_div(x.shape[0], tile["BLOCK_B"])
    splits = max(1, min(steps, NUM_PROGRAMS // blocks, MAX_SPLITS))
    per_split = ceil_div(steps, splits) * tile["BLOCK_F"]
    padded = max(16, triton.next_power_of_2(weight.shape[0]))
    return tile, padded, ceil_div(x.shape[1], per_split), per_split


def _tile(kernel: str, x: torch.Tensor, weight: torch.Tensor) -> TileConfig:
    sizes = {"batch": x.shape[0], "features": x.shape[1], "classes": weight.shape[0]}
    return select_tile(f"linear_cross_entropy.{kernel}", x.dtype, sizes, x.device)
