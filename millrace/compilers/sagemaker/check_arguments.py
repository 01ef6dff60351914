"""Rules on Arguments: each field is one of the request that SageMaker makes of them, with a value that it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.check_values import constant, kind_of_value, shortest, variables
from millrace.compilers.sagemaker.shapes import FILLED, Shape, pattern_of_shape, request, shape
from millrace.compilers.sagemaker.view import View, branch_steps, error, quoted, unknown_keys
from millrace.compilers.sagemaker.walk import is_variable
from millrace.errors import did_you_mean

__all__ = ["arguments", "fields", "mlflow"]

_ADVICE: Mapping[str, str] = {
    "ContainerArgument": "divide it into several arguments, or put it into an input",
    "ContainerArguments": "put large values into an input",
    "ContainerEntrypointString": "give a program and its arguments as several items",
    "ProcessingEnvironmentValue": "put it into an input or an argument",
    "ProcessingInputs": "put several artifacts below one prefix, or divide the step",
    "ProcessingOutputs": "write several artifacts below one prefix, or divide the step",
    "TrainingContainerArgument": "divide it into several arguments, or make it a hyperparameter",
    "HyperParameterValue": "put it into a channel, and its name here",
    "HyperParameters": "join several in one, as JSON",
    "InputDataConfig": "put several artifacts below one prefix",
    "RoleArn": "give the ARN of a role, arn:aws:iam::ACCOUNT:role/NAME",
    "S3Uri": "give a URI such as s3://BUCKET/PREFIX",
}
"""What to do, by the name of the shape."""
_WANTED: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "string": ("a text", ("string",)),
    "blob": ("a text", ("string",)),
    "integer": ("a whole number", ("integer",)),
    "long": ("a whole number", ("integer",)),
    "float": ("a number", ("integer", "float")),
    "double": ("a number", ("integer", "float")),
    "boolean": ("true or false", ("boolean",)),
    "structure": ("a mapping", ("structure", "map")),
    "map": ("a mapping", ("map", "structure")),
    "list": ("a list", ("list",)),
    "timestamp": ("a time", ("string", "integer", "float")),
}
_SAID: Mapping[str, str] = {
    "string": "a text",
    "integer": "a whole number",
    "float": "a number",
    "boolean": "a boolean",
}


def arguments(view: View) -> Iterator[Finding]:
    """The Arguments of each step against its request; of steps without one, the variables alone."""
    for step in view.listed:
        known = request(step.kind, step.arguments)
        if known is not None:
            yield from fields(view, step.arguments, known, step.at(), FILLED.get(step.kind, ""))
            continue
        own = {name: value for name, value in step.arguments.items() if name not in branch_steps(step)}
        if step.kind not in ("Condition", "ForEach"):
            yield from variables(view, own, step.at())


def mlflow(view: View) -> Iterator[Finding]:
    """What a pipeline says of MLflow and experiments."""
    for name in ("PipelineExperimentConfig", "MlflowConfig"):
        value = view.document.get(name)
        if isinstance(value, Mapping):
            known = shape("MlflowConfig" if name == "MlflowConfig" else "ExperimentConfig")
            yield from unknown_keys(value, known.members, name)
            for key in sorted(value.keys() & known.members.keys()):
                yield from _of_pipeline(view, value[key], known.below(key), f"{name}.{key}")


def _of_pipeline(view: View, value: Any, known: Shape, path: str) -> Iterator[Finding]:
    """A value that is there before any step: it refers to none."""
    if isinstance(value, Mapping) and is_variable(value):
        yield from variables(view, value, path, "pipeline")
    else:
        yield from fields(view, value, known, path)


def fields(view: View, value: Any, known: Shape, path: str, filled: str = "") -> Iterator[Finding]:
    """A value against its shape.

    Args:
        view: The definition.
        value: Plain, or a variable.
        known: The shape.
        path: Of the value.
        filled: A required field that may be missing.
    """
    if isinstance(value, Mapping) and is_variable(value):
        yield from _variable(view, value, known, path)
    elif known.type == "structure":
        yield from _structure(view, value, known, path, filled)
    elif known.type == "list":
        if not isinstance(value, list):
            yield _wrong_type(value, known, path)
            return
        yield from _counted(len(value), known, path, "items")
        for index, item in enumerate(value):
            yield from fields(view, item, known.below("member"), f"{path}[{index}]")
    elif known.type == "map":
        if not isinstance(value, Mapping):
            yield _wrong_type(value, known, path)
            return
        yield from _counted(len(value), known, path, "entries")
        for key, item in value.items():
            below = f"{path}[{key!r}]" if "." in key else f"{path}.{key}"
            yield from _text(key, known.below("key"), below)
            yield from fields(view, item, known.below("value"), below)
    else:
        yield from _scalar(value, known, path)


def _structure(view: View, value: Any, known: Shape, path: str, filled: str) -> Iterator[Finding]:
    if not isinstance(value, Mapping):
        yield _wrong_type(value, known, path)
        return
    for name, item in value.items():
        if name in known.members:
            yield from fields(view, item, known.below(name), f"{path}.{name}")
        else:
            yield error(f"{path}.{name}", f"unknown field: {did_you_mean(name, known.members)}")
    for name in known.data.get("required", ()):
        if name not in value and name != filled:
            yield error(f"{path}.{name}", "a value is required")


def _counted(count: int, known: Shape, path: str, what: str) -> Iterator[Finding]:
    least, most = known.data.get("min", 0), known.data.get("max")
    if count < least or (most is not None and count > most):
        allowed = f"at most {most}" if count > least else f"at least {least}"
        yield error(path, f"{count} {what}, {allowed} are allowed{_advice(known)}")


def _advice(known: Shape) -> str:
    advice = _ADVICE.get(known.name)
    return f": {advice}" if advice else ""


def _wrong_type(value: Any, known: Shape, path: str) -> Finding:
    function = next(iter(value)) if isinstance(value, Mapping) and len(value) == 1 else ""
    if isinstance(function, str) and function.startswith("Std:"):
        told = did_you_mean(function, ("Std:Join", "Std:JsonGet"))
        return error(path, f"unknown function {function!r}: {told}")
    hint = ": put it in quotes" if known.type == "string" and isinstance(value, int | float) else ""
    return error(path, f"{_WANTED[known.type][0]} is needed, given {quoted(value)}{hint}")


def _scalar(value: Any, known: Shape, path: str) -> Iterator[Finding]:
    wanted = known.type
    if wanted == "timestamp":
        good = isinstance(value, str | int | float) and not isinstance(value, bool)
    elif wanted in ("string", "blob"):
        good = isinstance(value, str)
    elif wanted == "boolean":
        good = isinstance(value, bool)
    elif wanted in ("integer", "long"):
        good = isinstance(value, int) and not isinstance(value, bool)
    else:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good:
        yield _wrong_type(value, known, path)
    elif isinstance(value, str):
        yield from _text(value, known, path)
    elif isinstance(value, int | float):
        least, most = known.data.get("min"), known.data.get("max")
        if (least is not None and value < least) or (most is not None and value > most):
            allowed = f"{least} to {most}" if None not in (least, most) else f"at least {least}"
            yield error(path, f"{value} is out of range: {allowed}")


def _text(value: str, known: Shape, path: str) -> Iterator[Finding]:
    least, most = known.data.get("min", 0), known.data.get("max")
    if "enum" in known.data:
        if value not in known.data["enum"]:
            yield error(path, f"{quoted(value)} is not known here: {_near(value, known.data['enum'])}")
    elif most is not None and len(value) > most:
        yield error(path, f"{len(value):,} characters, at most {most:,} are allowed{_advice(known)}: {quoted(value)}")
    elif len(value) < least:
        yield error(path, f"{len(value)} characters, at least {least} are needed{_advice(known)}: {quoted(value)}")
    elif "pattern" in known.data:
        pattern = pattern_of_shape(known.data["pattern"])
        if pattern is not None and pattern.fullmatch(value) is None:
            why = "it holds a line break, which is" if known.data["pattern"] in (".*", ".+") else "it is"
            yield error(path, f"{quoted(value)}: {why} not of the form {known.data['pattern']}{_advice(known)}")


def _near(value: str, allowed: list[str]) -> str:
    """What is allowed; of many values, the nearest and those of the same family."""
    told = did_you_mean(value, allowed)
    if len(allowed) <= 12:
        return told
    family = value.rpartition(".")[0]
    alike = [one for one in allowed if family.count(".") and one.startswith(f"{family}.")]
    first = told.partition("? ")[0] + "?" if told.startswith("did") else ""
    listed = f"of this family: {', '.join(sorted(alike))}" if alike else f"{len(allowed)} others are"
    return f"{first} {listed}".strip()


def _variable(view: View, value: Mapping[str, Any], known: Shape, path: str) -> Iterator[Finding]:
    problems = list(variables(view, value, path))
    yield from problems
    if problems:
        return
    kind = kind_of_value(view, value)
    wanted, kinds = _WANTED[known.type]
    if kind != "any" and kind not in kinds:
        given = f"{_referred(value)} is {_SAID.get(kind, f'a {kind}')} at run time"
        joinable = known.type == "string" and kind in _SAID
        advice = f': put it in a text, {{"Std:Join": {{"On": "", "Values": [{_referred(value)}]}}}}' if joinable else ""
        yield error(path, f"{wanted} is needed, {given}{advice}")
    elif known.type == "string":
        yield from _joined(value, known, path)
        yield from _defaults(view, value, known, path)
    else:
        yield from _defaults(view, value, known, path)


def _referred(value: Mapping[str, Any]) -> str:
    return str(value.get("Get", next(iter(value))))


def _joined(value: Mapping[str, Any], known: Shape, path: str) -> Iterator[Finding]:
    whole, least, most = constant(value), shortest(value), known.data.get("max")
    if whole is not None:
        yield from _text(whole, known, path)
    elif most is not None and least > most and "enum" not in known.data:
        told = f"what is known of this text has {least:,} characters, at most {most:,} are allowed{_advice(known)}"
        yield error(path, told)


def _defaults(view: View, value: Mapping[str, Any], known: Shape, path: str) -> Iterator[Finding]:
    """The values that a parameter is declared with fit the field that it fills."""
    reference = value.get("Get")
    if not isinstance(reference, str) or not reference.startswith("Parameters."):
        return
    parameter = view.parameters.get(reference[11:], {})
    given = parameter.get("EnumValues")
    for one in given if isinstance(given, list) else [parameter.get("DefaultValue")]:
        for finding in _scalar(one, known, path) if isinstance(one, str | int | float) else ():
            yield error(path, f"of parameter {reference[11:]!r}: {finding.message}")
            return
