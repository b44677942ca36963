"""Measures of continual learning, computed from accuracies.

A matrix has one row per task: row t holds the accuracies in [0, 1] after task t, one per task seen.
A row may be empty if the run did not evaluate the task (`--start_from`). R[t][j] is the accuracy on
task j after task t, T the number of tasks; tasks are counted from 0.

Measures that need several tasks are None before there are any.
"""

from collections.abc import Sequence

Matrix = list[list[float]]
Rows = Sequence[Sequence[float]]


def average(row: Sequence[float]) -> float:
    """Returns the mean accuracy over tasks, in [0, 1]; NaN for no task.

    Tasks count equally, whatever their number of images. Source: Lopez-Paz and Ranzato 2017,
    section 2 (ACC), arXiv 1706.08840.
    """
    return sum(row) / len(row) if row else float("nan")


def micro_accuracy(confusion: Sequence[Sequence[int]]) -> float:
    """Returns the accuracy over all images, in [0, 1], of which each counts once; NaN for none.

    It differs from `average` if tasks have different numbers of images, as with a large first task
    (B50): papers that follow iCaRL, PyCIL and PILOT among them, report this one.

    Args:
        confusion: Number of images of class i (row) that are predicted as class k (column).

    Example:
        >>> micro_accuracy([[3, 1], [0, 4]])
        0.875
    """
    images = sum(map(sum, confusion))
    return sum(row[k] for k, row in enumerate(confusion)) / images if images else float("nan")


def average_incremental(matrix: Rows) -> float | None:
    """Returns the mean over all tasks t of the average accuracy after task t, the first included.

    Source: Rebuffi et al. 2017 (iCaRL), section 4, arXiv 1611.07725, where every image counts
    equally (`micro_accuracy`) instead of every task.

    Example:
        >>> average_incremental([[1.0], [0.5, 0.7]])
        0.8
    """
    return _mean([average(row) for row in matrix if row])


def forgetting(matrix: Rows) -> float | None:
    """Returns the mean drop from the best accuracy on each earlier task.

    mean over j < T - 1 of (max over j <= l < T - 1 of R[l][j]) - R[T-1][j]. It may be negative.

    Source: Chaudhry et al. 2018, eq. 3, arXiv 1801.10112. None before the second task.
    """
    if len(matrix) < 2:
        return None
    return _mean(list(forgetting_per_task(matrix).values()))


def forgetting_per_task(matrix: Rows) -> dict[int, float]:
    """Returns the drop from the best earlier to the last accuracy of each earlier task.

    See `forgetting`, which is the mean.
    """
    if not matrix:
        return {}
    last, drops = matrix[-1], {}
    for j in range(min(len(matrix), len(last)) - 1):
        before = [row[j] for row in matrix[j:-1] if len(row) > j]
        if before:
            drops[j] = max(before) - last[j]
    return drops


def backward_transfer(matrix: Rows) -> float | None:
    """Returns the mean change of the accuracy on each earlier task since it was trained on.

    mean over j < T - 1 of R[T-1][j] - R[j][j].

    Source: Lopez-Paz and Ranzato 2017, section 2, arXiv 1706.08840. None before the second task.
    """
    if len(matrix) < 2:
        return None
    last = matrix[-1]
    learned = _learned(matrix[:-1])
    return _mean([last[j] - accuracy for j, accuracy in learned.items()])


def forward_transfer(future: Rows, initial: Sequence[float]) -> float | None:
    """Returns the mean accuracy on each task before it is trained on, above the untrained network.

    mean over j >= 1 of R[j-1][j] - b[j], where class-IL predicts among the classes of the tasks up
    to j.

    Source: Lopez-Paz and Ranzato 2017, section 2, arXiv 1706.08840.

    Args:
        future: Row t has the accuracies after task t on the tasks t + 1, t + 2, ...
        initial: b, the accuracy of the untrained network on each task.

    Example:
        >>> forward_transfer([[0.5, 0.25], [0.75], []], [0.25, 0.25, 0.25])
        0.375
    """
    return _mean(
        [row[0] - initial[t + 1] for t, row in enumerate(future) if row and t + 1 < len(initial)]
    )


def learning_accuracy(matrix: Rows) -> float | None:
    """Returns the mean accuracy on each task right after it was trained on, mean of R[j][j].

    Source: Riemer et al. 2019 (MER), arXiv 1810.11910.

    Example:
        >>> learning_accuracy([[1.0], [0.5, 0.5]])
        0.75
    """
    return _mean(list(_learned(matrix).values()))


def anytime_average(rows: Rows) -> float | None:
    """Returns the mean over all evaluations of the average accuracy on the tasks seen by then.

    With evaluations after tasks only this is `average_incremental`. `--eval_every` adds some
    during tasks; one at the last step of a task counts beside the one after the task.

    Source: Caccia et al. 2022 (AAA), arXiv 2104.05025.

    Args:
        rows: Accuracies of all evaluations in the order of time, one per task seen.
    """
    return _mean([average(row) for row in rows if row])


def minimum_accuracy(rows: Rows) -> float | None:
    """Returns the mean over earlier tasks of the lowest accuracy since their training ended.

    The evaluation at the end of their training does not count, later ones do. None before the
    second task.

    Source: De Lange et al. 2023 (min-ACC), arXiv 2205.13452.

    Args:
        rows: Accuracies of all evaluations in the order of time, one per task seen.

    Example:
        >>> minimum_accuracy([[1.0], [0.25, 0.5], [0.75, 1.0]])
        0.25
    """
    last = rows[-1] if rows else []
    return _mean([min(row[j] for row in rows if len(row) > j + 1) for j in range(len(last) - 1)])


def worst_case_accuracy(rows: Rows) -> float | None:
    """Returns the trade-off of the accuracy on the last task and the minima on earlier ones.

    With k tasks seen: R[last] / k + (1 - 1 / k) * `minimum_accuracy`. The stability gap, the
    transient drop while the next task is trained on, shows here and not in the final accuracy.
    None before the second task.

    Source: De Lange et al. 2023 (WC-ACC), arXiv 2205.13452.

    Args:
        rows: Accuracies of all evaluations in the order of time, one per task seen.

    Example:
        >>> worst_case_accuracy([[1.0], [0.25, 0.5], [0.75, 1.0]])
        0.625
    """
    minimum = minimum_accuracy(rows)
    if minimum is None:
        return None
    num_tasks = len(rows[-1])
    return rows[-1][-1] / num_tasks + (1 - 1 / num_tasks) * minimum


def per_class_accuracy(confusion: Sequence[Sequence[int]]) -> list[float | None]:
    """Returns the accuracy on each class in [0, 1]; None for a class without images.

    Args:
        confusion: Number of images of class i (row) that are predicted as class k (column).

    Example:
        >>> per_class_accuracy([[3, 1], [0, 0]])
        [0.75, None]
    """
    return [row[k] / sum(row) if sum(row) else None for k, row in enumerate(confusion)]


def recency_bias(confusion: Sequence[Sequence[int]], first_class: int) -> float | None:
    """Returns the share of images of earlier tasks predicted as a class of the newest task.

    The bias itself: Wu et al. 2019 (BiC), arXiv 1905.13260; the field has no fixed
    measure of it. None if there is no earlier task.

    Args:
        confusion: Number of images of class i (row) that are predicted as class k (column).
        first_class: First class of the newest task; the classes from there on belong to it.

    Example:
        >>> recency_bias([[3, 0, 1], [1, 1, 2], [0, 0, 4]], first_class=2)
        0.375
    """
    earlier = confusion[:first_class]
    images = sum(map(sum, earlier))
    return sum(sum(row[first_class:]) for row in earlier) / images if images else None


def expected_calibration_error(bins: Sequence[tuple[float, float, float]]) -> float:
    """Returns the expected calibration error (ECE) in [0, 1]; NaN without images.

    The mean over bins, weighted by their images, of the absolute difference between accuracy and
    mean confidence, which is the largest softmax of the scores of the classes seen.

    Source: Guo et al. 2017, section 2, arXiv 1706.04599.

    Args:
        bins: Images, correct predictions and sum of the confidences of each bin.

    Example:
        >>> expected_calibration_error([(1, 0, 0.25), (3, 3, 2.25)])
        0.25
    """
    images = sum(count for count, _, _ in bins)
    if not images:
        return float("nan")
    return sum(abs(correct - confidence) for _, correct, confidence in bins) / images


def _learned(matrix: Rows) -> dict[int, float]:
    """Returns R[j][j] of each task j that has a row; joint training has none."""
    return {j: row[j] for j, row in enumerate(matrix) if len(row) == j + 1}


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
