"""Distillation from the network of the previous task: the teacher and the losses that use it."""

import copy
from typing import Any

import torch
from torch.nn import functional as F


def update_teacher(model: Any) -> None:
    """Sets `model.teacher` to the current network, frozen and in eval mode; for `end_task`.

    There is one copy, whose weights later tasks overwrite, so that it is compiled once and captured
    steps find it at the same address. Nothing happens after the last task.

    Args:
        model: A `ContinualModel` that sets `self.teacher = None` in its constructor.
    """
    if model.dataset.c_task + 1 >= model.n_tasks:
        return
    if model.teacher is None:
        model.teacher = copy.deepcopy(model.net).requires_grad_(False).eval()
    model.teacher.load_state_dict(model.net.state_dict())
    # The second task is the first that needs its outputs. This call compiles it in the first one.
    shape = (model.args.batch_size, *model.dataset.info().input_shape)
    with torch.no_grad():
        model.teacher(torch.zeros(shape, device=model.device))


def distillation_loss(
    logits: torch.Tensor, old_logits: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Returns the cross-entropy of softened probabilities, mean over the batch, 0-d.

    `H(softmax(old / T), softmax(new / T))`, without the factor T^2 of Hinton et al. 2015
    (1503.02531): Li and Hoiem 2017, arXiv 1606.09282, eq. 2 to 4.

    Args:
        logits: Of the network that learns, [B, P].
        old_logits: Of the teacher, [B, P].
        temperature: T > 0.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 4), torch.zeros(1, 4), 2.0)  # log 4
        tensor(1.3863)
    """
    return F.cross_entropy(logits / temperature, F.softmax(old_logits / temperature, dim=1))


def distilled_bce(
    logits: torch.Tensor, labels: torch.Tensor, old_logits: torch.Tensor | None
) -> torch.Tensor:
    """Returns the binary cross-entropy of sigmoids, mean over batch and classes, 0-d.

    The targets of old classes are the teacher's sigmoids, those of the others are one-hot: Rebuffi
    et al. 2017, arXiv 1611.07725, algorithm 3. The paper sums over classes, its code averages,
    which scales the learning rate.

    Args:
        logits: Of the network that learns, [B, K].
        labels: Class ids, int64, [B].
        old_logits: Of the teacher for the first P classes, [B, P]; None in the first task.
    """
    targets = torch.zeros_like(logits).scatter_(1, labels[:, None], 1.0)
    if old_logits is not None:
        targets[:, : old_logits.shape[1]] = old_logits.sigmoid()
    return F.binary_cross_entropy_with_logits(logits, targets)
