"""From a pipeline to SageMaker's own definition: plain data, without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from millrace.compilers.groups import group_tasks
from millrace.compilers.sagemaker.conditions import grouped_steps
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.expressions import EXECUTION_ID, Step, get
from millrace.compilers.sagemaker.names import check_step_names
from millrace.compilers.sagemaker.refusals import check_pipeline
from millrace.compilers.sagemaker.serving import serving_steps
from millrace.compilers.sagemaker.training import training_step
from millrace.compilers.sagemaker.transform import transform_steps
from millrace.compilers.sagemaker.tuning import tuning_step
from millrace.compilers.sagemaker.walk import every_step
from millrace.specs import PipelineSpec, Task
from millrace.targets.sagemaker import SageMaker

__all__ = ["compile_pipeline"]

_VERSION = "2020-12-01"
_TYPES = {"string": "String", "integer": "Integer", "float": "Float", "boolean": "Boolean"}


def compile_pipeline(spec: PipelineSpec, target: SageMaker) -> str:
    """The pipeline's definition as JSON text.

    The same pipeline gives the same bytes. Nothing is asked for over a network.

    Raises:
        ConfigError: When an image is not fixed or names collide.
        UnsupportedError: For what SageMaker can't do.
    """
    context = Compiling.of(spec, target)
    check_pipeline(context)
    owners: dict[str, list[str]] = {}

    def steps_of(task: Task) -> list[Step]:
        steps = _steps(task, context)
        owners[f"task {task.name!r}"] = [step["Name"] for step in steps]
        return steps

    steps = grouped_steps(group_tasks(spec), context, steps_of)
    for name in _conditions(steps):
        owners[f"the condition {name!r}"] = [name]
    check_step_names(owners)
    definition = {
        "Version": _VERSION,
        "Metadata": {},
        "Parameters": list(_parameters(context)),
        "PipelineExperimentConfig": {"ExperimentName": get("Execution.PipelineName"), "TrialName": EXECUTION_ID},
        "Steps": steps,
    }
    return json.dumps(definition, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _steps(task: Task, context: Compiling) -> list[Step]:
    match context.kind(task):
        case "training":
            return [training_step(task, context)]
        case "tuning":
            return [tuning_step(task, context)]
        case "serving":
            return serving_steps(task, context)
        case "transform":
            return transform_steps(task, context)
    return [context.processing_step(task)]


def _parameters(context: Compiling) -> Iterator[dict[str, Any]]:
    for name in ("role", "bucket"):
        if getattr(context.target, name) is None:
            yield {"Name": name, "Type": "String"}
    for one in context.spec.runtime_parameters:
        yield {
            "Name": context.parameters[one.name],
            "Type": _TYPES[one.kind],
            "DefaultValue": one.default,
            **({"EnumValues": list(one.choices)} if one.choices and one.kind == "string" else {}),
        }


def _conditions(steps: Iterable[Step]) -> Iterator[str]:
    """Names of all Condition and Fail steps."""
    return (str(step["Name"]) for step in every_step(steps) if step["Type"] in ("Condition", "Fail"))
