"""The torch.compile backend "mammoth": Inductor, preceded by our patterns.

`torch.compile(net, backend="mammoth")` finds it through the entry point of the installed package.
"""

import contextvars
import functools
import threading
from collections.abc import Callable
from typing import Any

import torch

from mammoth_compiled.compiler import counters
from mammoth_compiled.compiler.ahead import compiles_ahead, computed_later
from mammoth_compiled.compiler.combined_kernels import combine_more_kernels
from mammoth_compiled.compiler.fingerprint import source_hash
from mammoth_compiled.compiler.gradients import keep_weight_strides
from mammoth_compiled.compiler.host_randomness import check_host_randomness
from mammoth_compiled.compiler.mutated_buffers import save_mutated_inputs
from mammoth_compiled.compiler.pattern import traced_functions
from mammoth_compiled.compiler.patterns import apply_lowerings, apply_patterns
from mammoth_compiled.compiler.step_counters import merge_step_counters
from mammoth_compiled.compiler.whole_layout import use_channels_last
from mammoth_compiled.kernels.runtime import cpp_library
from mammoth_compiled.kernels.runtime.cpp_batches import compile_kernels_together, finish_kernels
from mammoth_compiled.kernels.runtime.cpp_compiler import prepare_compiler
from mammoth_compiled.kernels.runtime.library_cache import verify_libraries


def mammoth(
    graph: torch.fx.GraphModule,
    example_inputs: list[torch.Tensor],
    *,
    mode: str | None = None,
    options: dict[str, Any] | None = None,
) -> Callable[..., Any]:
    """Compiles a graph that Dynamo captured.

    The patterns first replace subgraphs for which there is a better implementation. Inductor also
    decomposes the backward of max pooling into scatter_add, which makes small networks train slower
    than in eager mode on a CPU; where no pattern replaced the pooling, ATen's operator stays.

    Args:
        graph: Dynamo's graph.
        example_inputs: Inputs as fake or real tensors.
        mode: As for Inductor, for example "max-autotune".
        options: Inductor's options; they override `mode`.
    """
    check_host_randomness()
    verify_libraries()
    if _on_cpu(example_inputs):
        prepare_compiler()
        compile_kernels_together()
    with cpp_library.expected():
        compiled = _compile(graph, example_inputs, mode, options)
    counters.count_graph()
    if compiles_ahead():
        return computed_later(compiled)
    finish_kernels()
    return compiled


def _compile(
    graph: torch.fx.GraphModule,
    example_inputs: list[torch.Tensor],
    mode: str | None,
    options: dict[str, Any] | None,
) -> Callable[..., Any]:
    # Importing Inductor takes seconds; only compiling code pays for it.
    import torch._functorch.config
    import torch.compiler.config
    from torch._inductor import config, list_mode_options
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    apply_patterns(graph.graph)
    graph.recompile()
    tag = _cache_tag(example_inputs)
    patches = {
        "joint_custom_post_pass": _graph_pass(_rewrite_joint, tag),
        "post_grad_custom_pre_pass": _graph_pass(_rewrite_lowered, tag),
        "unsafe_marked_cacheable_functions": dict.fromkeys(traced_functions(), tag),
        **(combine_more_kernels() if (options or {}).get("combo_kernels") else {}),
        **(list_mode_options(mode) if mode else {}),
        **(options or {}),
    }
    # The key of AOTAutograd's cache ignores decompositions: the tag separates ours from Inductor's.
    settings: Any = torch.compiler.config  # its methods are generated at run time
    functorch: Any = torch._functorch.config
    inductor: Any = config
    with (
        settings.patch(cache_key_tag=f"{settings.cache_key_tag} {tag}"),
        # Lowers the backward graph while the kernels of the forward graph are compiled.
        functorch.patch(force_non_lazy_backward_lowering=_on_cpu(example_inputs)),
        inductor.patch(patches),
    ):
        compiled: Any = compile_fx(
            graph,
            example_inputs,
            inner_compile=_in_all_threads(inductor.patch(patches)(compile_fx_inner)),
            decompositions=_Decompositions.make(),
        )
    result: Callable[..., Any] = compiled
    return result


def _in_all_threads(lower: Callable[..., Any]) -> Callable[..., Any]:
    """Lets a function see the settings of this thread wherever it is called.

    On CUDA, autograd lowers the graph of the backward in a thread of its own. Settings are context
    variables (in PyTorch 2.14; global ones in 2.11), so that `torch.use_deterministic_algorithms`,
    for one, would hold for the forward alone.
    """
    thread, context = threading.get_ident(), contextvars.copy_context()

    @functools.wraps(lower)
    def lower_anywhere(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == thread:
            return lower(*args, **kwargs)
        return context.copy().run(lower, *args, **kwargs)

    return lower_anywhere


def _rewrite_joint(graph: torch.fx.Graph) -> None:
    """Rewrites a graph of forward and backward, or of forward alone without gradients."""
    save_mutated_inputs(graph)
    keep_weight_strides(graph)
    use_channels_last(graph)


def _rewrite_lowered(graph: torch.fx.Graph) -> None:
    """Rewrites a graph of forward or backward before Inductor lowers it."""
    apply_lowerings(graph)
    merge_step_counters(graph)


def _cache_tag(example_inputs: list[torch.Tensor]) -> str:
    """Returns our part of the key under which a compiled graph is cached on disk."""
    tag = f"mammoth-{source_hash()}"
    on_cpu = _on_cpu(example_inputs)
    return f"{tag} cpp" if on_cpu and cpp_library.is_available() else tag


def _on_cpu(example_inputs: list[torch.Tensor]) -> bool:
    return any(isinstance(t, torch.Tensor) and t.is_cpu for t in example_inputs)


@functools.cache
def _graph_pass(rewrite: Callable[[torch.fx.Graph], Any], tag: str) -> Any:
    """Returns a function that rewrites a graph as a pass of Inductor."""
    from torch._inductor.custom_graph_pass import CustomGraphPass

    class Pass(CustomGraphPass):
        def __call__(self, graph: torch.fx.Graph) -> None:
            rewrite(graph)

        def uuid(self) -> str:
            return tag

    return Pass()


class _Decompositions(dict[Any, Any]):
    """Inductor's decompositions without that of the backward of max pooling.

    Pickles as a call of `make`, since some of its functions cannot be pickled, and Inductor caches
    nothing on disk otherwise.
    """

    @classmethod
    def make(cls) -> "_Decompositions":
        from torch._inductor.decomposition import select_decomp_table

        kept = torch.ops.aten.max_pool2d_with_indices_backward.default
        return cls((op, rule) for op, rule in select_decomp_table().items() if op is not kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Decompositions.make, ()
