"""Differences between the supported torch versions, 2.11 to 2.15."""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch

# Options of Inductor that launch small kernels together that do not depend on each other. Without
# them ER on ResNet-18, in one graph, launches 201 kernels of Inductor, with them 134
# (benchmarks/results/launches.json). Nothing is timed to choose them.
COMBO_KERNELS = {
    "combo_kernels": True,
    "combo_kernels_autotune": 0,
    "benchmark_combo_kernel": False,
}
# Train and eval mode, with and without gradients, times the batch sizes of a run.
RECOMPILE_LIMIT = 32


# Dynamo imports this module, which logs that a machine with the CUDA toolkit has no GPU.
logging.getLogger("torch.utils.cpp_extension").addFilter(
    lambda record: "No CUDA runtime is found" not in record.getMessage()
)


def compile_function(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """Calls `torch.compile` with a limit of `RECOMPILE_LIMIT` graphs per function."""
    # Hooks that are added, removed or replaced later must take effect.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    # np.random draws from NumPy's generators, outside of graphs, not from torch's.
    torch._dynamo.config.use_numpy_random_stream = True
    if "recompile_limit" in inspect.signature(torch.compile).parameters:
        kwargs["recompile_limit"] = RECOMPILE_LIMIT
    else:  # before torch 2.13 the limit is global
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    compiled: Callable[..., Any] = torch.compile(function, **kwargs)
    return compiled
