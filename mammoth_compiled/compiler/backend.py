"""The torch.compile backend "mammoth": Inductor, told what the small convolutional nets need.

`torch.compile(net, backend="mammoth")` finds it through the entry point of the installed package.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch

from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.patterns import apply_patterns, lower_conv3x3
from mammoth_compiled.kernels.cpu import library

# Part of the key of what Inductor keeps on disk: to be changed with the functions below.
CACHE_TAG = "mammoth-3"

# Functions that patterns write into graphs. torch cannot see whether they changed.
_IN_GRAPHS = (
    "mammoth_compiled.kernels.relu_pool.relu_pool",
    "mammoth_compiled.kernels.attention.projections",
)


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
    import torch.compiler.config
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    apply_patterns(graph.graph)
    graph.recompile()
    tag = _cache_tag(example_inputs)
    patches = {
        "post_grad_custom_pre_pass": _lowering(tag),
        "unsafe_marked_cacheable_functions": dict.fromkeys(_IN_GRAPHS, tag),
        **(list_mode_options(mode) if mode else {}),
        **(options or {}),
    }
    # AOTAutograd's cache does not look at the decompositions: the tag keeps ours from stock's.
    settings: Any = torch.compiler.config  # whose methods are made at run time
    with settings.patch(cache_key_tag=f"{settings.cache_key_tag} {tag}"):
        compiled: Any = compile_fx(
            graph, example_inputs, config_patches=patches, decompositions=_Decompositions.make()
        )
    counters.count_graph()
    result: Callable[..., Any] = compiled
    return result


def _cache_tag(example_inputs: list[torch.Tensor]) -> str:
    """Returns what is part of the key of a graph on disk: what is written into it depends on it."""
    on_cpu = any(isinstance(t, torch.Tensor) and t.is_cpu for t in example_inputs)
    return f"{CACHE_TAG} cpp" if on_cpu and not library.why_not() else CACHE_TAG


@functools.cache
def _lowering(tag: str) -> Any:
    """Returns `lower_conv3x3` in the form that Inductor takes."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class Lowering(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            lower_conv3x3(graph)

        def uuid(self) -> str:
            return tag

    return Lowering()


class _Decompositions(dict[Any, Any]):
    """Inductor's decompositions but that of the backward of max pooling.

    It is pickled as a call that makes it: some of its functions cannot be pickled, without which
    Inductor keeps nothing for the next run.
    """

    @classmethod
    def make(cls) -> "_Decompositions":
        from torch._inductor.decomposition import select_decomp_table

        kept = torch.ops.aten.max_pool2d_with_indices_backward.default
        return cls((op, rule) for op, rule in select_decomp_table().items() if op is not kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Decompositions.make, ()
