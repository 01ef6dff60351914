"""What a pipeline author holds while composing: references to results that do not exist yet."""

from __future__ import annotations

from typing import Literal, NoReturn

from millrace.errors import CompositionError
from millrace.specs.frozen import Frozen

__all__ = ["Comparison", "Condition", "Metric", "TaskOutput"]

Comparison = Literal[">=", ">", "<=", "<"]


class TaskOutput(Frozen):
    """A reference to what a task will produce."""

    task: str
    """Name of the producing task."""
    port: str
    """Name of its output, or of its metric in a condition."""

    def __str__(self) -> str:
        return f"{self.task}.{self.port}"


class Condition(Frozen):
    """A metric compared with a constant: all that both targets can decide on."""

    metric: TaskOutput
    comparison: Comparison
    threshold: float
    runtime: str | None = None
    """Name of the pipeline's runtime parameter that stands for the threshold in a compiled document."""

    def holds(self, value: float) -> bool:
        """Whether the comparison is true of `value`; NaN never passes."""
        return {
            ">=": value >= self.threshold,
            ">": value > self.threshold,
            "<=": value <= self.threshold,
            "<": value < self.threshold,
        }[self.comparison]

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.threshold:g}"

    def __bool__(self) -> NoReturn:
        raise CompositionError(
            f"the condition `{self}` has no value while composing; write `with when(...):` instead of `if`"
        )


class Metric(Frozen):
    """A number that a task reports; comparing it with a constant makes a `Condition`."""

    producer: TaskOutput

    def __ge__(self, threshold: float) -> Condition:
        return Condition(metric=self.producer, comparison=">=", threshold=threshold)

    def __gt__(self, threshold: float) -> Condition:
        return Condition(metric=self.producer, comparison=">", threshold=threshold)

    def __le__(self, threshold: float) -> Condition:
        return Condition(metric=self.producer, comparison="<=", threshold=threshold)

    def __lt__(self, threshold: float) -> Condition:
        return Condition(metric=self.producer, comparison="<", threshold=threshold)

    def __bool__(self) -> NoReturn:
        raise CompositionError(
            f"the metric {self.producer} has no value while composing; compare it: `with when(metric >= 0.9):`"
        )
