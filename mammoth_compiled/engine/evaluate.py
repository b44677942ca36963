"""Accuracy and other measures on the test images of all tasks seen so far."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.distributed import num_ranks, rank
from mammoth_compiled.engine.score_counts import ScoreCounts, mean_loss
from mammoth_compiled.metrics import expected_calibration_error, recency_bias
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.types import Evaluation

# A logit so far above the others that its probability is 1.
SURE = 100.0

Score = Callable[[torch.Tensor], torch.Tensor]


@torch.no_grad()
def evaluate(
    model: ContinualModel, dataset: ContinualDataset, future: Sequence[Iterable[Any]] = ()
) -> Evaluation:
    """Evaluates a model on the test set of every task seen so far.

    A prediction is the argmax of the scores `model(inputs)`, [B, K], over all classes seen so far
    (class-IL), or over the task's own classes (task-IL). Counts are added up on the device and read
    once per evaluation, so that no batch causes a host sync.

    Args:
        model: The model; its backbone is in eval mode meanwhile.
        dataset: The dataset, after at least one `meta_get_data_loaders()`.
        future: Test batches of each task not seen yet, in order.

    Returns:
        The measures.
    """
    num_seen = len(dataset.test_loaders)
    if not num_seen:
        return Evaluation()
    counts = _count(model, dataset, model, [*dataset.test_loaders, *future])
    newest, classes_seen = dataset.get_offsets(num_seen - 1)
    tasks, confusion, bins = counts.read()
    seen, unseen = tasks[:num_seen], tasks[num_seen:]
    confusion = [row[:classes_seen] for row in confusion[:classes_seen]]
    return Evaluation(
        class_il=[task.class_il for task in seen],
        task_il=[task.task_il for task in seen],
        loss=mean_loss(seen),
        top5=[task.top5 for task in seen],
        confusion=confusion,
        ece=expected_calibration_error(bins),
        # With joint training no task is the newest.
        recency_bias=None if dataset.joint else recency_bias(confusion, newest),
        future_class_il=[task.class_il for task in unseen],
        future_task_il=[task.task_il for task in unseen],
    )


@torch.no_grad()
def evaluate_task(model: ContinualModel, dataset: ContinualDataset) -> tuple[float, float]:
    """Evaluates a model on the current task only, in joint training on all.

    Args:
        model: The model.
        dataset: The dataset, in a task.

    Returns:
        The mean loss, nats, and the class-IL accuracy in [0, 1].
    """
    num_seen = len(dataset.test_loaders)
    first = 0 if dataset.joint else num_seen - 1
    counts = _count(model, dataset, model, dataset.test_loaders[first:], first)
    measures, *_ = counts.read()
    images = sum(task.images for task in measures)
    return (
        mean_loss(measures),
        sum(task.class_il * task.images for task in measures) / images,
    )


@torch.no_grad()
def evaluate_untrained(
    model: ContinualModel, dataset: ContinualDataset, tasks: Sequence[Iterable[Any]]
) -> tuple[list[float], list[float]]:
    """Evaluates the logits of the backbone before training: the baseline of forward transfer.

    Args:
        model: The model, before its first task.
        dataset: The dataset.
        tasks: Test batches of each task.

    Returns:
        Class-IL accuracy of each task, with predictions among its classes and those of the tasks
        before it, and task-IL accuracy, in [0, 1].
    """
    measures, *_ = _count(model, dataset, model.net, tasks).read()
    return [task.class_il for task in measures], [task.task_il for task in measures]


def _count(
    model: ContinualModel,
    dataset: ContinualDataset,
    score: Score,
    tasks: Sequence[Iterable[Any]],
    first: int = 0,
) -> ScoreCounts:
    """Counts what `score` predicts for the test batches of the tasks from `first` on."""
    counts = ScoreCounts(dataset.N_CLASSES, model.device)
    num_seen = len(dataset.test_loaders)
    classes_seen = dataset.get_offsets(num_seen - 1)[1] if num_seen else 0
    loss_function = dataset.get_loss()
    was_training = model.net.training
    model.net.eval()
    try:
        for task, batches in enumerate(tasks, first):
            all_scores, all_labels = [], []
            # The sum of the losses, and of how many images.
            loss = torch.zeros(2, dtype=torch.float64, device=model.device)
            # Each rank of data-parallel training takes every so many batches.
            for inputs, labels, *_ in islice(batches, rank(), None, num_ranks()):
                inputs, labels = inputs.to(model.device), labels.to(model.device)
                scores = score(inputs)
                loss += _sum_of_losses(loss_function, scores, labels)
                all_scores.append(scores)
                all_labels.append(labels)
            own = dataset.get_offsets(task)
            if not all_scores:  # fewer batches than ranks
                all_scores = [torch.zeros(0, dataset.N_CLASSES, device=model.device)]
                all_labels = [torch.zeros(0, dtype=torch.int64, device=model.device)]
            counts.add(
                torch.cat(all_scores),
                torch.cat(all_labels),
                loss,
                own,
                end=max(classes_seen, own[1]),
                is_seen=task < num_seen,
            )
    finally:
        model.net.train(was_training)
    if num_ranks() > 1:
        counts.add_up_over_ranks()
    return counts


def _sum_of_losses(
    loss_function: Callable[..., torch.Tensor], scores: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Returns the sum of the losses of images whose class has a score, and their number, [2]."""
    label = labels[:, None]
    has_score = scores.gather(1, label) != -torch.inf
    # The cross entropy of a row that is sure of its label is 0; selecting the other rows would be
    # a host sync.
    sure = torch.zeros_like(scores).scatter_(1, label, SURE)
    mean = loss_function(torch.where(has_score, scores, sure), labels)
    return torch.stack((mean * len(labels), has_score.sum()))
