"""The measures of a run that compare its tasks, after the last task or an earlier one."""

from typing import Any

from mammoth_compiled.metrics import (
    anytime_average,
    average_incremental,
    backward_transfer,
    forgetting,
    forward_transfer,
    learning_accuracy,
    worst_case_accuracy,
)


def measures_across_tasks(
    results: Any, setting: str, num_tasks: int | None = None
) -> dict[str, float | None]:
    """Returns the measures that compare tasks, in one setting.

    Args:
        results: A `Results` object.
        setting: "class_il" or "task_il", the suffix of their names.
        num_tasks: Number of tasks to take into account; None for all.
    """
    matrix = getattr(results, setting)[:num_tasks]
    rows = results.accuracies(setting, num_tasks)
    future = getattr(results, f"future_{setting}")[:num_tasks]
    measures = {
        "average_incremental": average_incremental(matrix),
        "forgetting": forgetting(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": forward_transfer(future, getattr(results, f"initial_{setting}")),
        "learning_accuracy": learning_accuracy(matrix),
        "anytime_average": anytime_average(rows),
        "worst_case": None if results.is_joint else worst_case_accuracy(rows),
    }
    return {f"{name}_{setting}": value for name, value in measures.items()}
