"""Metrics of continual learning, computed from accuracy matrices.

Row t of a matrix holds the accuracies in [0, 1] after task t, one per task seen.
"""

Matrix = list[list[float]]


def average(row: list[float]) -> float:
    """Returns the mean accuracy over tasks, in [0, 1]."""
    return sum(row) / len(row) if row else float("nan")


def forgetting(matrix: Matrix) -> float | None:
    """Returns the mean drop from the best accuracy on each earlier task.

    Source: Chaudhry et al. 2018, eq. 3, arXiv 1801.10112. None before the second task.
    """
    if len(matrix) < 2:
        return None
    last = matrix[-1]
    earlier = range(len(matrix) - 1)
    best = [max(row[j] for row in matrix[j:-1]) for j in earlier]
    return average([best[j] - last[j] for j in earlier])


def backward_transfer(matrix: Matrix) -> float | None:
    """Returns the mean change of the accuracy on each earlier task since it was trained on.

    Source: Lopez-Paz and Ranzato 2017, section 2, arXiv 1706.08840. None before the second task.
    """
    if len(matrix) < 2:
        return None
    return average([matrix[-1][j] - matrix[j][j] for j in range(len(matrix) - 1)])
