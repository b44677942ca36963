"""Estimates whether compiling a backbone saves time on a CPU."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mammoth_compiled.backbones.base import MammothBackbone

# Milliseconds that compiling saves in a training step for each GFLOP of its forward pass, with 2
# threads: between what benchmarks/compile_auto.py shows on two machines.
SAVED_MS_PER_GFLOP = {
    **{"narrow pooled": 24.0, "pooled": 13.0, "narrow convolution": 12.0, "convolution": 4.0},
    "bmm": 24.0,
}
REFERENCE_THREADS = 2
NARROW_CHANNELS = 48
# Seconds of compiling, from the same: a constant part and one for each leaf module, by what is in
# the cache; see `engine.compiled_before.CompiledBefore.level`.
COMPILE_S = {"first": (2.2, 0.28), "prepared": (2.1, 0.255), "cached": (1.7, 0.015)}


@dataclass
class OpProfile:
    """Floating-point operations of one forward pass by kind of operation.

    Attributes:
        flops: By kind: "pooled" are convolutions followed by max pooling, "convolution" others;
            with less than NARROW_CHANNELS input channels they are "narrow". "bmm" are batched
            matrix products, "mm" others.
    """

    flops: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All floating-point operations."""
        return sum(self.flops.values())


def compiling_pays(
    net: MammothBackbone,
    images: torch.Tensor,
    num_steps: int,
    level: str = "first",
    images_per_step: int | None = None,
) -> tuple[bool, str]:
    """Estimates from arithmetic alone, so that the same run gets the same answer each time.

    Args:
        net: The backbone.
        images: One batch of the run, [B, C, H, W].
        num_steps: Training steps to come.
        level: What is in the cache, a key of COMPILE_S.
        images_per_step: Images that a step passes to the backbone; None for those of the batch.

    Returns:
        Whether compiling saves more time than it costs, and the estimate in words.
    """
    flops = forward_profile(net, images).flops
    saved_ms = sum(SAVED_MS_PER_GFLOP.get(kind, 0.0) * n / 1e9 for kind, n in flops.items())
    saved_ms *= (images_per_step or len(images)) / len(images)
    saved_s = num_steps * saved_ms / 1e3 * REFERENCE_THREADS / torch.get_num_threads()
    base_s, per_module_s = COMPILE_S[level]
    num_leaves = sum(1 for module in net.modules() if not any(module.children()))
    cost_s = base_s + per_module_s * num_leaves
    cached = ", from the cache" if level == "cached" else ""
    reason = (
        f"auto: in {num_steps:,} steps on the CPU compiling saves about {saved_s:.0f} s and costs "
        f"about {cost_s:.0f} s{cached}"
    )
    return saved_s > cost_s, reason


@torch.no_grad()
def forward_profile(net: MammothBackbone, images: torch.Tensor) -> OpProfile:
    """Counts the floating-point operations of a forward pass over a batch [B, C, H, W].

    The network computes one image in eval mode; its state and the random state do not change.
    """
    training_modules: list[nn.Module] = [module for module in net.modules() if module.training]
    recorder = _Recorder()
    net.eval()
    devices = [images.device] if images.is_cuda else []  # a GPU that is not used stays unused
    try:
        with torch.random.fork_rng(devices), recorder:
            net(images[:1])
    finally:
        for module in training_modules:
            module.training = True
    return recorder.profile(len(images))


class _Recorder(TorchDispatchMode):
    """Records matrix products and convolutions, and which convolutions are pooled."""

    _PASSES_ON = ("relu", "relu_", "clamp_min", "native_batch_norm", "hardtanh")

    def __init__(self) -> None:
        super().__init__()
        self._flops: list[tuple[str, int]] = []
        # By id of a convolution's result: its index in _flops. Results are kept so that no id is
        # used twice.
        self._convolution_of: dict[int, int] = {}
        self._results: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        first = result[0] if isinstance(result, (tuple, list)) else result
        if name == "convolution":
            weight = args[1]
            narrow = "narrow " if weight.shape[1] < NARROW_CHANNELS else ""
            self._convolution_of[id(first)] = len(self._flops)
            self._flops.append((f"{narrow}convolution", 2 * first.numel() * weight[0].numel()))
        elif name in ("mm", "addmm", "bmm", "baddbmm"):
            kind = "bmm" if "bmm" in name else "mm"
            self._flops.append((kind, 2 * first.numel() * args[-1].shape[-2]))
        elif name in self._PASSES_ON and id(args[0]) in self._convolution_of:
            self._convolution_of[id(first)] = self._convolution_of[id(args[0])]
        elif name.startswith("max_pool2d") and id(args[0]) in self._convolution_of:
            index = self._convolution_of[id(args[0])]
            kind, flops = self._flops[index]
            self._flops[index] = (kind.replace("convolution", "pooled"), flops)
        self._results.append((args, result))
        return result

    def profile(self, batch_size: int) -> OpProfile:
        """Returns the operations for so many images."""
        profile = OpProfile()
        for kind, flops in self._flops:
            profile.flops[kind] = profile.flops.get(kind, 0) + batch_size * flops
        return profile
