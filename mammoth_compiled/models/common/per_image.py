"""Gradients of the loss of single images, many at once."""

import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def per_image_gradients(
    net: nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the gradient of the cross-entropy of each image, and its value.

    `torch.func.vmap` computes them together; a network with an operation that it does not support
    is run image by image. Nothing is compiled.

    Args:
        net: The network, in eval mode: batch statistics have no meaning for one image.
        images: [B, C, H, W].
        labels: Class ids, int64, [B].

    Returns:
        Gradients in the order of `net.parameters()`, [B, P], and cross-entropies, nats, [B].
    """
    module = _Eager(net)
    weights = {name: p.detach() for name, p in module.named_parameters()}
    state = {name: buffer.detach() for name, buffer in module.named_buffers()}

    def cross_entropy(
        parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = functional_call(module, {**parameters, **state}, image[None])
        return F.cross_entropy(logits, label[None])

    function = grad_and_value(cross_entropy)
    try:
        # The fused attention kernels have no batching rule.
        with sdpa_kernel(SDPBackend.MATH):
            grads, losses = vmap(function, in_dims=(None, 0, 0))(weights, images, labels)
    except RuntimeError:  # vmap has no rule for an operation
        results = [function(weights, *pair) for pair in zip(images, labels, strict=True)]
        grads = {name: torch.stack([grad[name] for grad, _ in results]) for name in weights}
        losses = torch.stack([loss for _, loss in results])
    return torch.cat([grad.flatten(1) for grad in grads.values()], 1), losses


class _Eager(nn.Module):
    """Calls a network in eager mode, also one whose calls may run compiled."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = nn.Module.__call__(self.net, x)
        return result
