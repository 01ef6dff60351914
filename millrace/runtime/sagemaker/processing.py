"""`millrace exec` inside a processing job of SageMaker.

The service has filled the folders of the inputs before, and stores those of the outputs afterwards, whatever is in
them. The work itself is done by a worker in a private folder; when it is well, its outputs are moved.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue, ValidationError

from millrace.errors import ConfigError, UserError, explain_validation
from millrace.registry import AnyComponent, load_component
from millrace.runtime.context import Share
from millrace.runtime.process import cores_allowed
from millrace.runtime.sagemaker.contract import (
    BASE,
    PROCESSING_CONFIG,
    ProcessingJobConfig,
    ResourceConfig,
    inside,
    read,
)
from millrace.runtime.sagemaker.hyperparameters import decode
from millrace.runtime.sagemaker.inputs import Delivered, artifacts
from millrace.runtime.sagemaker.job import LONGEST, Job, pairs, run_job, tell
from millrace.runtime.sagemaker.outputs import check_writable, store
from millrace.runtime.task import TaskRequest, TaskResult
from millrace.specs.dotted import merged
from millrace.targets.sagemaker import EndpointWork

__all__ = ["here", "run"]

_OPTIONS = ("--task", "--parameters", "--open", "--open-text", "--archive", "--endpoint")
_MESSAGE = "output/message"


class _Asked(NamedTuple):
    """The arguments of the container."""

    component: str
    task: str
    parameters: dict[str, JsonValue]
    archives: dict[str, str]
    endpoint: EndpointWork | None


def here(base: Path = BASE) -> bool:
    """Whether this is a container of a processing job."""
    return (base / PROCESSING_CONFIG).is_file()


def run(words: Sequence[str], base: Path = BASE) -> int:
    """Run a component on the arguments of a container and return the exit code.

    Args:
        words: The component's entry, then options.
        base: Where the service's folders are.

    Raises:
        MillraceError: When something is wrong before or after the component's own work.
    """
    return run_job(base, ("output/failure", _MESSAGE), lambda job: _run(_parsed(words), job))


def _parsed(words: Sequence[str]) -> _Asked:
    values: dict[str, list[str]] = {option: [] for option in _OPTIONS}
    into: list[str] | None = None
    for word in words[1:]:
        if word in values:
            into = values[word]
        elif into is None:
            raise UserError(f"millrace exec: unknown argument {word[:80]!r}; allowed: {', '.join(_OPTIONS)}")
        else:
            into.append(word)
    task = "".join(values["--task"])
    if not task:
        raise UserError("millrace exec: --task is required")
    dotted: dict[str, JsonValue] = {
        name: decode(value) for name, value in pairs(values["--open"], f"{task}: --open").items()
    }
    dotted |= pairs(values["--open-text"], f"{task}: --open-text")
    return _Asked(
        component=words[0],
        task=task,
        parameters=merged(_parameters(task, "".join(values["--parameters"]) or "{}"), dotted),
        archives=pairs(values["--archive"], f"{task}: --archive"),
        endpoint=_endpoint(task, "".join(values["--endpoint"])),
    )


def _parameters(task: str, text: str) -> dict[str, JsonValue]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{task}: --parameters is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{task}: --parameters must be a JSON object (given: {text[:80]})")
    return found


def _endpoint(task: str, text: str) -> EndpointWork | None:
    if not text:
        return None
    try:
        return EndpointWork.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain_validation(error, EndpointWork, prefix=f"{task}: --endpoint")) from error


def _run(asked: _Asked, job: Job) -> int:
    component = load_component(asked.component)
    told = read(job.base / PROCESSING_CONFIG, ProcessingJobConfig)
    machines = read(job.base / "config" / "resourceconfig.json", ResourceConfig).as_hosts()
    folders = _output_folders(asked.task, component, told, job.base)
    check_writable(folders.values())
    # what was sharded by key is all this host's: to deal it out again would leave most of it undone
    by_key = any(one.s3_input.s3_data_distribution_type == "ShardedByS3Key" for one in told.processing_inputs)
    request = TaskRequest(
        name=asked.task,
        component=asked.component,
        parameters=asked.parameters,
        inputs=artifacts(asked.task, component, _delivered(told, job.base), asked.archives, job.directory / "inputs"),
        share=Share() if by_key else Share(index=machines.index, count=len(machines.names)),
        cores=cores_allowed(),
        run=told.processing_job_name,
        endpoint=asked.endpoint,
    )
    result = job.work(request)
    if not isinstance(result, TaskResult):
        return result
    alone = len(machines.names) == 1  # a mark of one host would lie among the files of another
    made = {folder: job.task / result.outputs[port].path for port, folder in folders.items()}
    store(made, marked=made if alone else ())
    _tell_facts(job.base / _MESSAGE, result)
    return 0


def _delivered(told: ProcessingJobConfig, base: Path) -> list[Delivered]:
    return [
        Delivered(
            name=one.input_name,
            path=inside(base, one.s3_input.local_path or f"{BASE}/processing/input/{one.input_name}"),
            uri=one.s3_input.s3_uri,
        )
        for one in told.processing_inputs
    ]


def _output_folders(task: str, component: AnyComponent, told: ProcessingJobConfig, base: Path) -> dict[str, Path]:
    """Folders that the service stores, by port. What the document does not ask for is not stored."""
    folders = {
        one.output_name: inside(base, one.s3_output.local_path or f"{BASE}/processing/output/{one.output_name}")
        for one in told.processing_output_config.outputs
    }
    unknown = sorted(set(folders) - {port.name for port in component.spec.outputs})
    if unknown:
        raise ConfigError(
            f"{task}: the component {component.spec.name!r} of this image has no outputs called {unknown}; "
            "compile the pipeline with the image's version of Millrace"
        )
    return folders


def _tell_facts(file: Path, result: TaskResult) -> None:
    """Leave metrics and facts as the job's exit message, as far as there is room."""
    facts: Mapping[str, JsonValue] = {name: made.metadata for name, made in result.outputs.items() if made.metadata}
    for said in ({"metrics": result.metrics, "facts": facts}, {"metrics": result.metrics}):
        text = json.dumps(said)
        if len(text) <= LONGEST:
            tell(file, text)
            return
