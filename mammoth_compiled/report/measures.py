"""The measures that a report shows, and how numbers are written."""

import math
from dataclasses import dataclass

from mammoth_compiled.report.statistics import Summary

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Measure:
    """A measure of a run, a fraction that is shown in percent.

    Attributes:
        key: Its name in the summary of the results.
        title: Its name in tables.
        lower_is_better: Whether small values are good.
        bar: Whether tables show it as a bar.
    """

    key: str
    title: str
    lower_is_better: bool = False
    bar: bool = False

    def format(self, value: float) -> str:
        """Returns a value in percent."""
        return NONE if math.isnan(value) else f"{100 * value:.2f}"

    def format_summary(self, summary: Summary) -> str:
        """Returns a mean, and half the width of its confidence interval if there is one."""
        text = self.format(summary.mean)
        return (
            text
            if math.isnan(summary.half_width)
            else f"{text} ± {self.format(summary.half_width)}"
        )


MEASURES = (
    Measure("class_il", "Class-IL %", bar=True),
    Measure("task_il", "Task-IL %", bar=True),
    Measure("average_incremental_class_il", "incremental %"),
    Measure("forgetting_class_il", "forgetting", lower_is_better=True),
    Measure("backward_transfer_class_il", "BWT"),
    Measure("forward_transfer_class_il", "FWT"),
    Measure("learning_accuracy_class_il", "learning %"),
    Measure("worst_case_class_il", "worst case %"),
    Measure("ece", "ECE %", lower_is_better=True),
)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun.

    Example:
        >>> counted(1, "run"), counted(2, "run")
        ('1 run', '2 runs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
