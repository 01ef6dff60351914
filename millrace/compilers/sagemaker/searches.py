"""What a tuning task searches, read from its parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from millrace.compilers.sagemaker.context import Compiling
from millrace.errors import UnsupportedError, explain_validation
from millrace.specs import Study, Task, TaskOutput

__all__ = ["Choices", "Numbers", "Search", "is_best_of", "read_search", "searched_names"]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Numbers(_Read):
    """Numbers between two limits."""

    kind: Literal["float", "int"]
    low: float
    high: float
    log: bool = False
    step: float | None = None

    def limit(self, value: float) -> str:
        """A limit as text."""
        return str(int(value)) if self.kind == "int" else repr(value)


class Choices(_Read):
    """One of some values."""

    kind: Literal["categorical"]
    choices: tuple[JsonValue, ...]


class _Objective(_Read):
    metric: str
    direction: Literal["maximize", "minimize"] = "maximize"
    intermediate: str | None = None


class Search(_Read):
    """The parameters of a component that delegates tuning."""

    component: str
    trial: dict[str, JsonValue] = Field(default_factory=dict)
    space: dict[str, Annotated[Numbers | Choices, Field(discriminator="kind")]]
    objective: _Objective
    sampler: Mapping[str, JsonValue] = Field(default_factory=dict)
    pruner: Mapping[str, JsonValue] = Field(default_factory=dict)
    trials: int
    parallel: int = 1
    timeout_minutes: float | None = None
    seed: int = 0

    def is_searched(self, name: str) -> bool:
        """Whether a parameter, or a group that it is in, is searched."""
        return any(name == one or name.startswith(f"{one}.") for one in self.space)


def read_search(task: Task) -> Search:
    """A task's search.

    Raises:
        UnsupportedError: For a component that names its parameters in another way.
    """
    try:
        return Search.model_validate(task.parameters)
    except ValidationError as error:
        raise UnsupportedError(
            f"{task.name}: its parameters are not those of a search, so SageMaker can't do it; "
            f"target.tuning.kind=task runs the component itself: {explain_validation(error, prefix=task.name)}"
        ) from error


def searched_names(task: Task) -> list[str]:
    """Dotted names of the parameters that a tuning task searches, in a fixed order."""
    return sorted(read_search(task).space)


def is_best_of(outputs: Sequence[TaskOutput], context: Compiling) -> bool:
    """Whether an input is the study of a tuning job, whose best values SageMaker tells."""
    if len(outputs) != 1:
        return False
    producer = context.spec.task(outputs[0].task)
    port = context.component(producer).output(outputs[0].port)
    return context.kind(producer) == "tuning" and port is not None and port.artifact.fits(Study.artifact_type())
