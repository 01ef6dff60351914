"""Values that SageMaker fills in while a pipeline runs, in the form that its definition has for them."""

from __future__ import annotations

from typing import Any

__all__ = ["EXECUTION_ID", "Expression", "Step", "as_text", "below", "get", "join", "json_get", "parameter"]

Expression = str | dict[str, Any]
"""A text, or a value that is known only in an execution."""
Step = dict[str, Any]
"""A step as it stands in a definition."""


def get(path: str) -> dict[str, Any]:
    """A value by its path: `Steps.NAME.PROPERTY`, `Parameters.NAME`, `Execution.NAME`."""
    return {"Get": path}


EXECUTION_ID = get("Execution.PipelineExecutionId")


def parameter(name: str) -> dict[str, Any]:
    """The value of one of the definition's parameters."""
    return get(f"Parameters.{name}")


def join(separator: str, *values: Expression) -> Expression:
    """Values in one text; a plain one where all are known."""
    parts: list[Expression] = []
    for value in values:
        if isinstance(value, str) and parts and isinstance(parts[-1], str):
            parts[-1] = f"{parts[-1]}{separator}{value}"
        else:
            parts.append(value)
    if len(parts) == 1 and isinstance(parts[0], str):
        return parts[0]
    return {"Std:Join": {"On": separator, "Values": parts}}


def below(folder: Expression, path: str) -> Expression:
    """A place below a folder, whose URI may end in a slash."""
    if isinstance(folder, dict) and folder.get("Std:Join", {}).get("Values", [""])[-1] == "/":
        return join("", *folder["Std:Join"]["Values"], path)
    return join("/", folder, path)


def as_text(value: Expression) -> Expression:
    """A parameter of another type as text: fields that are texts take nothing else."""
    return join("", value)


def json_get(step: str, file: str, path: str) -> dict[str, Any]:
    """A value in a file that a processing step has written and declared as a property file."""
    return {"Std:JsonGet": {"PropertyFile": get(f"Steps.{step}.PropertyFiles.{file}"), "Path": path}}
