"""Decides whether compiling pays for the steps to come."""

from argparse import Namespace
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from mammoth_compiled.backbones.base import MammothBackbone
from mammoth_compiled.datasets.base import EVAL_BATCH_SIZE

# From benchmarks/results/compile_pays.json: two threads of a server's CPU reach 65 to 158 GFLOP/s
# in convolutional networks, and compiling saves 31 to 72 % of a step.
CPU_FLOPS_PER_THREAD = 3.5e10
CPU_SAVED_SHARE = 0.3
COMPILE_BASE_S = 10.0
COMPILE_PER_MODULE_S = 0.5


@dataclass(frozen=True)
class Decision:
    """Whether to compile, and why, for the user to read."""

    compile: bool
    reason: str


def decide(
    mode: str, device: torch.device, net: MammothBackbone, images: torch.Tensor, steps: int
) -> Decision:
    """Decides from arithmetic alone, so that the same run decides alike each time.

    Args:
        mode: "on", "off" or "auto".
        device: Where the run computes.
        net: The backbone.
        images: One batch of the run, [B, C, H, W].
        steps: Training steps to come.
    """
    if mode != "auto":
        return Decision(mode == "on", f"--compile {mode}")
    if device.type == "cuda":
        return Decision(True, "auto: always on a GPU")
    step_s = 3 * forward_flops(net, images) / (CPU_FLOPS_PER_THREAD * torch.get_num_threads())
    saved_s = CPU_SAVED_SHARE * steps * step_s
    leaves = sum(1 for module in net.modules() if not any(module.children()))
    cost_s = COMPILE_BASE_S + COMPILE_PER_MODULE_S * leaves
    pays = saved_s > cost_s
    return Decision(
        pays,
        f"auto: {steps:,} steps of about {1e3 * step_s:.0f} ms on the CPU, compiling saves about "
        f"{saved_s:.0f} s and costs about {cost_s:.0f} s",
    )


@torch.no_grad()
def forward_flops(net: MammothBackbone, images: torch.Tensor) -> int:
    """Counts the floating-point operations of one forward pass over a batch [B, C, H, W]."""
    was_training = [m for m in net.modules() if m.training]
    counter = FlopCounterMode(display=False)
    net.eval()
    try:
        with counter, torch.random.fork_rng():
            net(images[:1])
    finally:
        for module in was_training:
            module.training = True
    return counter.get_total_flops() * len(images)


def batch_sizes(args: Namespace) -> set[int]:
    """Returns the sizes of full batches: stream, replay, both together, evaluation."""
    stream, replay = args.batch_size, getattr(args, "minibatch_size", None) or args.batch_size
    return {stream, replay, stream + replay, stream + 2 * replay, EVAL_BATCH_SIZE}
