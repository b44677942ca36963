"""The torch.compile backend "mammoth": Inductor, told what the small convolutional nets need.

`torch.compile(net, backend="mammoth")` finds it through the entry point of the installed package.
"""

from collections.abc import Callable
from typing import Any

import torch

from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.patterns import apply_patterns


def mammoth(
    graph: torch.fx.GraphModule,
    example_inputs: list[torch.Tensor],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles a graph that Dynamo captured.

    Patterns that Inductor does badly are replaced first, see `patterns`. Inductor also decomposes
    the backward of max pooling into scatter_add, which makes small networks train slower than
    eager on a CPU; where no pattern took the pooling, the operator of ATen stays.

    Args:
        graph: Dynamo's graph.
        example_inputs: Inputs as fake or real tensors.
        mode: As for Inductor, "max-autotune" for example.
        options: Inductor's options; they win over `mode`.
    """
    # Inductor takes seconds to import: only who compiles waits for it.
    import torch._functorch.config
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.decomposition import select_decomp_table

    apply_patterns(graph.graph)
    graph.recompile()
    kept = torch.ops.aten.max_pool2d_with_indices_backward.default
    decompositions = {op: rule for op, rule in select_decomp_table().items() if op is not kept}
    patches = {**(list_mode_options(mode) if mode else {}), **(options or {})}
    # AOTAutograd's cache does not look at the decompositions, and would mix up ours with stock.
    with torch._functorch.config.patch(enable_autograd_cache=False):
        compiled: Any = compile_fx(
            graph, example_inputs, config_patches=patches, decompositions=decompositions
        )
    counters.count_graph()
    result: Callable[..., Any] = compiled
    return result
