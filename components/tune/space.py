"""What a search may choose from, and whether the component that is searched can take it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from millrace.errors import ConfigError, did_you_mean, explain_validation
from millrace.specs import Parameters
from millrace.specs.dotted import flatten, merged

__all__ = ["Choices", "FloatRange", "IntRange", "Range", "Space", "check_space", "extremes"]


class FloatRange(Parameters):
    """A number between two limits."""

    kind: Literal["float"] = "float"
    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = Field(default=False)
    """Even over orders of magnitude instead of values."""
    step: float | None = Field(default=None, gt=0)
    """Distance between two values; any value when None."""

    @model_validator(mode="after")
    def _ordered(self) -> FloatRange:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step is not None:
            raise ValueError("log and step can't be combined")
        return self


class IntRange(Parameters):
    """A whole number between two limits."""

    kind: Literal["int"] = "int"
    low: int
    """Smallest value."""
    high: int
    """Largest value."""
    log: bool = Field(default=False)
    """Even over orders of magnitude instead of values."""
    step: int = Field(default=1, ge=1)
    """Distance between two values."""

    @model_validator(mode="after")
    def _ordered(self) -> IntRange:
        _check_range(self.low, self.high, self.log)
        if self.log and self.step != 1:
            raise ValueError("log and step can't be combined")
        return self


class Choices(Parameters):
    """One of some values; a value may be a whole group, `{"kind": "mlp", ...}` for one."""

    kind: Literal["categorical"] = "categorical"
    choices: tuple[JsonValue, ...] = Field(min_length=1)
    """What to choose from."""


Range = Annotated[FloatRange | IntRange | Choices, Field(discriminator="kind")]
Space = Mapping[str, Range]
"""Ranges by dotted parameter name: `learning_rate`, `model.dropout`."""


def check_space(model: type[Parameters], base: Mapping[str, JsonValue], space: Space) -> dict[str, JsonValue]:
    """Check that a component takes the base parameters and every limit and choice of the space.

    Returns:
        The base parameters, complete with their defaults.

    Raises:
        ConfigError: Naming the parameter, the value and what is allowed.
    """
    try:
        complete = model.model_validate(base).model_dump(mode="json")
    except ValidationError as error:
        raise ConfigError(explain_validation(error, model, prefix="trial")) from error
    known = flatten(complete)
    for name, values in space.items():
        if name not in known:
            raise ConfigError(f"space: {model.__name__} has no parameter {name!r}: {did_you_mean(name, known)}")
        if inside := next((other for other in space if name.startswith(f"{other}.")), None):
            raise ConfigError(f"space: {name!r} lies inside {inside!r}, which is searched as a whole: keep one of them")
        for value in extremes(values):
            try:
                model.model_validate(merged(complete, {name: value}))
            except ValidationError as error:
                raise ConfigError(
                    f"space: {name}={value!r} is out of range: {explain_validation(error, model)}"
                ) from error
    return complete


def extremes(values: FloatRange | IntRange | Choices) -> Iterator[JsonValue]:
    """The values that a range ends with, or all choices."""
    if isinstance(values, Choices):
        yield from values.choices
    else:
        yield from (values.low, values.high)


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise ValueError(f"low must not exceed high, given {low:g} and {high:g}")
    if log and low <= 0:
        raise ValueError(f"log needs low > 0, given {low:g}")
