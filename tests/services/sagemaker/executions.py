"""Executions of pipelines as SageMaker tells of them, played step by step; nothing runs."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Execution", "Play", "RefusalError", "check_start", "read_definition"]

_METADATA = {
    "Processing": ("ProcessingJob", "processing-job"),
    "Training": ("TrainingJob", "training-job"),
    "Tuning": ("TuningJob", "hyper-parameter-tuning-job"),
    "Transform": ("TransformJob", "transform-job"),
    "Model": ("Model", "model"),
    "RegisterModel": ("RegisterModel", "model-package"),
    "EndpointConfig": ("EndpointConfig", "endpoint-config"),
    "Endpoint": ("Endpoint", "endpoint"),
}
_TYPES: Mapping[str, Any] = {"String": str, "Integer": int, "Float": float, "Boolean": bool}
_numbers = itertools.count(1)


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, message: str, code: str = "ValidationException", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


@dataclass
class Play:
    """How executions go."""

    failing: dict[str, str] = field(default_factory=dict)
    """Reasons by step."""
    cached: set[str] = field(default_factory=set)
    """Steps whose results are there already."""
    unmet: set[str] = field(default_factory=set)
    """Conditions that do not hold."""
    paused: bool = False
    """Nothing goes on but by `Execution.advance`."""


@dataclass
class Execution:
    """One execution and its steps."""

    arn: str
    definition: str
    asked: dict[str, Any]
    """The request that started it."""
    play: Play
    status: str = "Executing"
    reason: str = ""
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: float = field(default_factory=time.time)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.status in ("Succeeded", "Failed", "Stopped")

    def advance(self) -> None:
        """Go on by one state: the running step ends, or the next one starts."""
        if self.over:
            return
        self.changed = time.time()
        if self.status == "Stopping":
            self._stop()
            return
        running = [step for step in self.steps.values() if step["StepStatus"] in ("Starting", "Executing")]
        for step in running:
            self._go_on(step)
        if not running:
            following = next((item for item in self._order() if item["Name"] not in self.steps), None)
            if following is None or self.status == "Failed":
                self.status = "Succeeded"
            else:
                self._start(following)

    def end(self) -> None:
        """Play it to its end."""
        while not self.over:
            self.advance()

    def job(self, step: str) -> str:
        """Name of a step's job."""
        return next(
            str(item["Arn"]).rpartition("/")[2] for item in self.steps[step]["Metadata"].values() if "Arn" in item
        )

    def _order(self) -> Iterator[dict[str, Any]]:
        config = self.asked.get("SelectiveExecutionConfig")
        chosen = {item["StepName"] for item in config["SelectedSteps"]} if config else None
        for item in self._reached(json.loads(self.definition)["Steps"]):
            if chosen is None or item["Name"] in chosen:
                yield item

    def _reached(self, items: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for item in items:
            yield item
            if item["Type"] == "Condition":
                branch = "ElseSteps" if item["Name"] in self.play.unmet else "IfSteps"
                yield from self._reached(item["Arguments"].get(branch) or [])

    def _start(self, item: Mapping[str, Any]) -> None:
        name, kind = item["Name"], item["Type"]
        step: dict[str, Any] = {"StepName": name, "StartTime": time.time(), "StepStatus": "Starting", "AttemptCount": 1}
        if kind in _METADATA:
            field_name, part = _METADATA[kind]
            base = self.arn.partition(":pipeline/")[0]
            number = next(_numbers)
            job = f"{self.arn.rpartition('/')[2]}-{name[:11]}-{number:06d}"  # names of tuning jobs have 32 characters
            job = job if kind == "Tuning" else f"pipelines-{job}"
            step["Metadata"] = {field_name: {"Arn": f"{base}:{part}/{job.lower()}"}}
        elif kind == "Condition":
            step["Metadata"] = {"Condition": {"Outcome": "False" if name in self.play.unmet else "True"}}
        if name in self.play.cached:
            step["CacheHitResult"] = {"SourcePipelineExecutionArn": self.arn[:-4] + "0000"}
        if kind == "Fail":
            step["Metadata"] = {"Fail": {"ErrorMessage": str(item["Arguments"].get("ErrorMessage", ""))}}
            self.play.failing.setdefault(name, str(item["Arguments"].get("ErrorMessage", "")))
        self.steps[name] = step

    def _go_on(self, step: dict[str, Any]) -> None:
        if step["StepStatus"] == "Starting":
            step["StepStatus"] = "Executing"
            return
        step["EndTime"] = time.time()
        reason = self.play.failing.get(step["StepName"])
        step["StepStatus"] = "Failed" if reason else "Succeeded"
        if reason:
            step["FailureReason"] = reason
            self.status = "Failed"
            self.reason = f"Step failure: One or multiple steps failed. ({step['StepName']})"

    def _stop(self) -> None:
        for step in self.steps.values():
            if step["StepStatus"] in ("Starting", "Executing"):
                step |= {"StepStatus": "Stopped", "EndTime": time.time()}
        self.status = "Stopped"


def check_start(definition: str, asked: Mapping[str, Any]) -> None:
    """Whether parameters and steps of a request that starts an execution are those of the definition.

    Raises:
        RefusalError: As the service answers.
    """
    document = read_definition(definition)
    given = {item["Name"]: item["Value"] for item in asked.get("PipelineParameters") or []}
    declared = {item["Name"]: item for item in document.get("Parameters") or []}
    for name in given.keys() - declared.keys():
        raise RefusalError(f"Unknown parameter [{name}]: it is not defined in the pipeline definition")
    for name, item in declared.items():
        if name not in given and "DefaultValue" not in item:
            raise RefusalError(f"Parameter [{name}] does not have a value and no default value is defined")
        _check(name, given.get(name), item)
    config = asked.get("SelectiveExecutionConfig") or {}
    known = {step["Name"] for step in _all_steps(document["Steps"])}
    for item in config.get("SelectedSteps") or []:
        if item["StepName"] not in known:
            raise RefusalError(f"Step [{item['StepName']}] of SelectedSteps is not in the pipeline")


def read_definition(text: str) -> dict[str, Any]:
    """A definition, parsed.

    Raises:
        RefusalError: When it is none.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise RefusalError(f"Unable to parse pipeline definition: {error}") from error
    if not isinstance(document, dict) or document.get("Version") != "2020-12-01" or not document.get("Steps"):
        raise RefusalError("Unable to parse pipeline definition: Version and Steps are required")
    names = [step["Name"] for step in _all_steps(document["Steps"])]
    if len(set(names)) < len(names):
        raise RefusalError("Step names must be unique in the pipeline definition")
    return document


def _all_steps(items: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for item in items:
        yield item
        for branch in ("IfSteps", "ElseSteps"):
            yield from _all_steps(item.get("Arguments", {}).get(branch) or [])


def _check(name: str, value: str | None, declared: Mapping[str, Any]) -> None:
    if value is None:
        return
    kind = declared["Type"]
    try:
        typed = value.lower() in ("true", "false") if kind == "Boolean" else _TYPES[kind](value) is not None
    except ValueError:
        typed = False
    if not typed:
        raise RefusalError(f"Parameter [{name}] must be of type {kind}")
    if declared.get("EnumValues") and value not in map(str, declared["EnumValues"]):
        raise RefusalError(f"Parameter [{name}] must be one of {declared['EnumValues']}")
