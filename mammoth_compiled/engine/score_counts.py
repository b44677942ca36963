"""Counts of an evaluation, added up on the device and read once."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from mammoth_compiled.distributed import add_up_

# Bins of the confidence for the calibration error, as in the paper.
NUM_BINS = 15


class TaskMeasures(NamedTuple):
    """Measures on the test images of one task.

    Attributes:
        class_il: Accuracy in [0, 1].
        task_il: Accuracy in [0, 1].
        top5: Accuracy in [0, 1].
        loss: Sum of the losses, nats, of the images whose class has a score other than -inf.
        scored: Number of these images.
        images: Number of all images.
    """

    class_il: float
    task_il: float
    top5: float
    loss: float
    scored: int
    images: int


def mean_loss(tasks: Sequence[TaskMeasures]) -> float:
    """Returns the mean loss of images whose class has a score, nats; infinite if none has."""
    scored = sum(task.scored for task in tasks)
    return sum(task.loss for task in tasks) / scored if scored else math.inf


class ScoreCounts:
    """Counts of correct predictions, the confusion matrix and calibration bins.

    Args:
        num_classes: K, the number of all classes.
        device: The device of the scores.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self._num_classes = num_classes
        self._tasks: list[torch.Tensor] = []
        self._images: list[int] = []
        self._confusion = torch.zeros(num_classes**2, dtype=torch.int64, device=device)
        self._bins = torch.zeros(NUM_BINS, 3, dtype=torch.float64, device=device)
        self._bounds = torch.linspace(0, 1, NUM_BINS + 1, device=device)[1:-1]

    def add(
        self,
        scores: torch.Tensor,
        labels: torch.Tensor,
        loss: torch.Tensor,
        own: tuple[int, int],
        end: int,
        is_seen: bool,
    ) -> None:
        """Adds all test images of a task; causes no host sync.

        Args:
            scores: Scores of the images, [N, K]; higher is better.
            labels: Class ids, int64, [N].
            loss: Sum of the losses of images whose class has a score, and their number, [2].
            own: The (first, last + 1) class id of the task.
            end: Class-IL predicts among the classes below it.
            is_seen: Whether the confusion matrix and the calibration bins count the task.
        """
        first, last = own
        among = scores[:, :end]
        predicted = among.argmax(1)
        is_correct = predicted == labels
        is_correct_own = scores[:, first:last].argmax(1) + first == labels
        counts = [is_correct.sum(), is_correct_own.sum(), _in_top5(among, labels).sum(), *loss]
        self._tasks.append(torch.stack([count.to(torch.float64) for count in counts]))
        self._images.append(len(labels))
        if is_seen:
            cell = labels * self._num_classes + predicted
            self._confusion.index_add_(0, cell, torch.ones_like(cell))
            self._add_to_bins(among, is_correct)

    def _add_to_bins(self, scores: torch.Tensor, is_correct: torch.Tensor) -> None:
        scores = scores.float()
        # The maximum of the softmax, without the others.
        confidence = 1 / (scores - scores.amax(1, keepdim=True)).exp().sum(1)
        # Bin b holds the confidences in (b / NUM_BINS, (b + 1) / NUM_BINS].
        index = torch.bucketize(confidence, self._bounds)
        rows = torch.stack([torch.ones_like(confidence), is_correct, confidence], 1)
        self._bins.index_add_(0, index, rows.to(torch.float64))

    def add_up_over_ranks(self) -> None:
        """Adds up the counts of all ranks, each of which has counted other images."""
        images = torch.tensor(self._images, device=self._bins.device)
        tasks = torch.stack(self._tasks)
        add_up_((tasks, images, self._confusion, self._bins))
        self._tasks, self._images = list(tasks), images.tolist()

    def read(self) -> tuple[list[TaskMeasures], list[list[int]], list[tuple[float, float, float]]]:
        """Returns the measures of each task, the confusion matrix, [K, K], and the bins.

        A bin has its images, its correct predictions and the sum of its confidences. This is the
        only host sync.
        """
        sums = torch.stack(self._tasks).tolist()
        tasks = [
            TaskMeasures(
                correct / images, correct_own / images, in_top5 / images, loss, int(scored), images
            )
            for (correct, correct_own, in_top5, loss, scored), images in zip(
                sums, self._images, strict=True
            )
        ]
        confusion = self._confusion.view(self._num_classes, -1).tolist()
        return tasks, confusion, [(n, correct, sure) for n, correct, sure in self._bins.tolist()]


def _in_top5(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns whether the score of the label is among the five highest, bool, [N].

    Of equal scores the first counts as higher, as for `argmax`; NaN counts as higher than
    everything. Counting needs no sorting, unlike `topk`.
    """
    own = scores.gather(1, labels[:, None])
    is_before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    is_higher = torch.where(is_before, ~(scores < own), ~(scores <= own))
    return is_higher.sum(1) < 5
