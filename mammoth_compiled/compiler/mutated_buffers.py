"""Keeps the backward pass from reading a buffer that the forward pass has overwritten.

AOTAutograd's partitioner may recompute in backward what depends on a graph input, even if forward
ends by copying a new value into that input. A module that updates a buffer and then uses it, as in
`self.scale.mul_(0.9); return x * self.scale`, then gets wrong gradients, silently (seen in torch
2.14). A clone of such an input, which must be saved for backward, prevents that.
"""

from torch.fx import Graph, Node


def save_mutated_inputs(graph: Graph) -> None:
    """Rewrites a joint graph of AOTAutograd in place, before it is partitioned.

    Inputs that are only read to compute their own new values, such as the running statistics of
    batch norm, stay as they are.
    """
    import torch
    from torch.utils.checkpoint import CheckpointPolicy

    copy = torch.ops.aten.copy_.default
    mutated = {n.args[0] for n in graph.find_nodes(op="call_function", target=copy)}
    for node in mutated:
        if not isinstance(node, Node) or node.op != "placeholder" or not _reaches_output(node):
            continue
        readers = [user for user in node.users if user.target is not copy]
        with graph.inserting_after(node):
            clone = graph.call_function(torch.ops.aten.clone.default, (node,))
        clone.meta = {**node.meta, "recompute": CheckpointPolicy.MUST_SAVE}
        for reader in readers:
            reader.replace_input_with(node, clone)


def _reaches_output(node: Node) -> bool:
    """Returns whether an output of the graph depends on a node, other than through `copy_`."""
    seen: set[Node] = set()
    stack = [user for user in node.users if user.op != "output"]
    while stack:
        current = stack.pop()
        if current.op == "output":
            return True
        if current not in seen:
            seen.add(current)
            stack += current.users
    return False
