"""Estimates whether compiling a backbone saves time on a CPU."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from mammoth_compiled.backbones.base import MammothBackbone

# From benchmarks/results/compile_pays.json: two threads of a server CPU reach 65 to 158 GFLOP/s in
# convolutional networks, and compiling saves 31 to 72 % of a step.
FLOPS_PER_THREAD = 3.5e10
SAVED_SHARE = 0.3
COMPILE_BASE_S = 10.0
COMPILE_PER_MODULE_S = 0.5


def compiling_pays(net: MammothBackbone, images: torch.Tensor, num_steps: int) -> tuple[bool, str]:
    """Estimates from arithmetic alone, so that the same run gets the same answer each time.

    Args:
        net: The backbone.
        images: One batch of the run, [B, C, H, W].
        num_steps: Training steps to come.

    Returns:
        Whether compiling saves more time than it costs, and the estimate in words.
    """
    flops_per_s = FLOPS_PER_THREAD * torch.get_num_threads()
    step_s = 3 * forward_flops(net, images) / flops_per_s  # backward costs twice the forward
    saved_s = SAVED_SHARE * num_steps * step_s
    num_leaves = sum(1 for module in net.modules() if not any(module.children()))
    cost_s = COMPILE_BASE_S + COMPILE_PER_MODULE_S * num_leaves
    reason = (
        f"auto: {num_steps:,} steps of about {1e3 * step_s:.0f} ms on the CPU, compiling saves "
        f"about {saved_s:.0f} s and costs about {cost_s:.0f} s"
    )
    return saved_s > cost_s, reason


@torch.no_grad()
def forward_flops(net: MammothBackbone, images: torch.Tensor) -> int:
    """Counts the floating-point operations of one forward pass over a batch [B, C, H, W]."""
    training_modules = [module for module in net.modules() if module.training]
    counter = FlopCounterMode(display=False)
    net.eval()
    try:
        with counter, torch.random.fork_rng():
            net(images[:1])
    finally:
        for module in training_modules:
            module.training = True
    return counter.get_total_flops() * len(images)
