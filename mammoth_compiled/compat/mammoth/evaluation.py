"""Mammoth's `utils.evaluate`."""

from typing import Any

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.engine import evaluate as evaluate_model
from mammoth_compiled.models.base import ContinualModel

__all__ = ["evaluate"]


def evaluate(
    model: ContinualModel, dataset: ContinualDataset, last: bool = False, return_loss: bool = False
) -> Any:
    """Evaluates a model on the tasks seen so far.

    Args:
        model: The model.
        dataset: The dataset.
        last: True returns the current task only.
        return_loss: True appends the mean test loss.

    Returns:
        Class-IL accuracies and task-IL accuracies, percent, one per task.
    """
    result = evaluate_model(model, dataset)
    first = len(result.class_il) - 1 if last else 0
    accs = tuple([100 * a for a in v[first:]] for v in (result.class_il, result.task_il))
    return (*accs, result.loss) if return_loss else accs
