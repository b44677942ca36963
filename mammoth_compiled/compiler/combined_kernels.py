"""Makes Inductor combine more kernels that do not depend on each other into one launch.

Inductor combines kernels of the same depth in the graph, at most eight, and only if the peak of
memory grows by less than 5 %. What the end of a training step computes, gradients that are cast or
summed for the optimizer and running statistics, is of many depths, but no kernel reads it. It is
computed in one launch, at the end. Large kernels stay alone. Inductor then writes 23
kernels for a step of attention-cnn, and 39 without combo kernels
(benchmarks/results/launches.json).
"""

from collections.abc import Callable
from typing import Any

# Kernels of one launch.
MAX_KERNELS = 64
# Growth of the peak of memory by kernels that wait for others, per launch, in GiB: little even on a
# graphics card of 8 GiB.
MAX_MEMORY_GROWTH = 0.25

# What a kernel may read and write to be combined, in bytes. A larger one takes longer than its
# launch and loses tiles of its own: when all casts and reorderings of weights and their gradients
# were combined, they took 0.66 ms of a step of ResNet-18 on an H100, which copies as many bytes in
# 0.04 ms (benchmarks/results/gpu_h100_steps.json).
MAX_BYTES = 2**20

_Groups = list[list[Any]]


def combine_more_kernels() -> dict[str, Any]:
    """Groups the last kernels of graphs that are compiled from now on with `combo_kernels`.

    Returns:
        Options of Inductor with the limits above, those of them that this version of torch has.
    """
    from torch._inductor import config
    from torch._inductor.scheduler import ForeachKernelSchedulerNode

    by_depth = ForeachKernelSchedulerNode.group_algorithm_for_combo_kernels
    if by_depth is not _grouped:
        _default.append(by_depth)
        ForeachKernelSchedulerNode.set_group_algorithm_for_combo_kernels(_grouped)
    limits = {
        "combo_kernel_max_num_nodes": MAX_KERNELS,
        "combo_kernel_peak_memory_pct_threshold": None,
        "combo_kernel_peak_memory_increase_gb": MAX_MEMORY_GROWTH,
    }
    return {name: limit for name, limit in limits.items() if hasattr(config, name)}


# The algorithm that was there before.
_default: list[Callable[[Any], _Groups]] = []


def _grouped(scheduler: Any) -> _Groups:
    """Returns the small kernels: in groups by depth, and those that nothing waits for in one."""
    last: dict[Any, list[Any]] = {}
    others: _Groups = []
    for group in _default[-1](scheduler):
        others.append([])
        for node in group:
            if node.get_read_write_buffers_sizes() > MAX_BYTES:
                continue
            if _is_last(node):
                last.setdefault(_context(scheduler, node), []).append(node)
            else:
                others[-1].append(node)
    return [*others, *last.values()]


def _is_last(node: Any) -> bool:
    """Returns whether no other kernel of the graph reads what a kernel writes, or waits for it.

    Two such kernels do not depend on each other, whatever their depth.
    """
    own = {*node.get_operation_names(), "OUTPUT"}
    return all(user.get_name() in own for buffer in node.get_outputs() for user in buffer.users)


def _context(scheduler: Any, node: Any) -> tuple[Any, ...]:
    """Returns what the kernels of a launch have in common: device, stream and pool of memory."""
    streams, pools = (getattr(scheduler, f"node_to_{name}", {}) for name in ("stream", "mempool"))
    return node.get_device(), streams.get(node), pools.get(node)
