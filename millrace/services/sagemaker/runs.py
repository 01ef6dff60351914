"""Start executions; the same id never starts a second one."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic import JsonValue

from millrace.errors import ConfigError, UnsupportedError, did_you_mean
from millrace.services.sagemaker.document import Document, given_parameters
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.links import execution_link
from millrace.services.sagemaker.marks import digest, mark, read_mark, token
from millrace.services.sagemaker.pipelines import pipeline_role, upsert_pipeline
from millrace.services.sagemaker.session import Session
from millrace.services.sagemaker.uploads import default_bucket
from millrace.targets.runs import Submit

__all__ = ["Submitted", "execution_arn", "filled_parameters", "fresh_id", "submit_run"]

_LOOKED_THROUGH = 1000
"""Executions, the latest first, that are searched for an id. The service itself remembers tokens for a while only."""
_MOST_STEPS = 50
_OF_DEPLOYMENT = ("model", "config", "endpoint", "register", "transform")
"""Ends of the names of steps that one task becomes, beside its own."""


class Submitted(NamedTuple):
    """An execution."""

    arn: str
    link: str
    new: bool
    """False: an earlier submit of the same id has started it."""
    change: str
    """What became of the pipeline: created, updated, unchanged; empty when it was not looked at."""

    @property
    def run_id(self) -> str:
        """The last part of its ARN."""
        return self.arn.rpartition("/")[2]


def fresh_id(name: str) -> str:
    """An id that nobody has used: the pipeline's name, the time and a random end."""
    return f"{name[:40]}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def submit_run(session: Session, document: Document, submit: Submit, identity: str) -> Submitted:
    """Start an execution of a document, or find the one that was started with this id.

    The id stands in the execution's description, and the request's token is made of it: one finds old
    executions, the other holds while two processes ask at the same time.

    Raises:
        ConfigError: When parameters or tasks do not fit the document, or the id is another execution's.
        UnsupportedError: For what SageMaker does not know.
        ServiceError: When AWS can't be reached or refuses.
    """
    if submit.experiment != "Default":
        raise UnsupportedError(
            f"submit.experiment={submit.experiment!r}: a group of runs in Kubeflow; SageMaker's experiment has the "
            "pipeline's own name: choose another with pipeline.name=NAME"
        )
    parameters = filled_parameters(session, document, submit.parameters)
    steps = _selected(document, submit)
    role = pipeline_role(session.target, parameters)
    content = digest(
        definition=document.digest, parameters=dict(parameters), only=list(steps), reference=submit.reference
    )
    found = _earlier(session, document.name, identity, content)
    if found is not None:
        return Submitted(found, _link(session, document, found), False, "")
    _check_bucket(session, document, parameters)
    upserted = upsert_pipeline(session, document, role)
    asked: dict[str, Any] = {
        "PipelineName": document.name,
        "PipelineExecutionDisplayName": _display_name(submit.name or identity),
        "PipelineExecutionDescription": mark("run", identity, content),
        "PipelineParameters": [{"Name": name, "Value": value} for name, value in sorted(parameters.items())],
        "ClientRequestToken": token("run", document.name, identity),
    }
    if steps:
        asked["SelectiveExecutionConfig"] = {
            "SourcePipelineExecutionArn": _reference(session, document.name, upserted.arn, submit.reference),
            "SelectedSteps": [{"StepName": name} for name in steps],
        }
    arn = str(session.call("sagemaker", "start_pipeline_execution", **asked)["PipelineExecutionArn"])
    return Submitted(arn, _link(session, document, arn), True, upserted.change)


def filled_parameters(session: Session, document: Document, given: Mapping[str, JsonValue]) -> dict[str, str]:
    """Values for a document's parameters; `role` and `bucket` come from the target where they are not given.

    Raises:
        ConfigError: When the values do not fit the document, or the role is nowhere.
        ServiceError: When the account's own bucket can't be found out.
    """
    values = dict(given)
    declared = document.parameters
    if "role" in declared and "role" not in values and "DefaultValue" not in declared["role"]:
        values["role"] = pipeline_role(session.target, {})
    if "bucket" in declared and "bucket" not in values and "DefaultValue" not in declared["bucket"]:
        given_parameters(document, {"bucket": "to-be-found", **values})  # mistakes first: nothing was sent yet
        values["bucket"] = default_bucket(session)
    return given_parameters(document, values)


def _check_bucket(session: Session, document: Document, parameters: Mapping[str, Any]) -> None:
    """Refuse a run whose results would have no place, before anything is sent.

    Raises:
        ServiceError: When the bucket is not there, in another region, or out of reach.
    """
    declared = document.parameters.get("bucket", {}).get("DefaultValue")
    bucket = parameters.get("bucket") or declared or session.target.bucket
    if not bucket:
        return
    try:
        session.call("s3", "head_bucket", Bucket=str(bucket))
    except ServiceError as error:
        if error.code != "403" and not error.unknown:  # who submits need not be allowed to look
            raise


def execution_arn(session: Session, pipeline_arn: str, run: str) -> str:
    """ARN of an execution that is named by it or by its last part.

    Raises:
        ConfigError: When it is no ARN of an execution.
    """
    if not run.startswith("arn:"):
        return f"{pipeline_arn}/execution/{run}"
    if not re.fullmatch(r"arn:aws[a-z-]*:sagemaker:[a-z0-9-]+:\d{12}:pipeline/[^/]+/execution/[^/]+", run):
        raise ConfigError(f"{run}: no ARN of an execution: arn:aws:sagemaker:REGION:ACCOUNT:pipeline/NAME/execution/ID")
    if run.split(":")[3] != session.region:
        raise ConfigError(f"{run} is in another region: target.region={run.split(':')[3]}")
    return run


def _link(session: Session, document: Document, arn: str) -> str:
    return execution_link(session, document.name, arn.rpartition("/")[2])


def _earlier(session: Session, name: str, identity: str, content: str) -> str | None:
    """ARN of the execution that was started with this id."""
    try:
        for item in _executions(session, name):
            known = read_mark("run", item.get("PipelineExecutionDescription"))
            if known is None or known[0] != identity:
                continue
            if known[1] != content:
                raise ConfigError(
                    f"submit.id={identity} is the id of {item['PipelineExecutionArn']}, which has another definition, "
                    "other parameters or other steps: choose another id"
                )
            return str(item["PipelineExecutionArn"])
    except ServiceError as error:
        if not error.missing:  # else the pipeline is new
            raise
    return None


def _executions(session: Session, name: str) -> Iterator[dict[str, Any]]:
    """Executions of a pipeline, the latest first."""
    listed = session.pages(
        "sagemaker", "list_pipeline_executions", "PipelineExecutionSummaries", PipelineName=name, SortOrder="Descending"
    )
    yield from itertools.islice(listed, _LOOKED_THROUGH)


def _selected(document: Document, submit: Submit) -> tuple[str, ...]:
    """Names of the steps that shall run alone, in the document's order."""
    if submit.reference is not None and not submit.only:
        raise ConfigError("submit.reference: it is for submit.only=[TASK,...], which names the tasks that shall run")
    chosen: set[str] = set()
    for task in submit.only:
        name = task.replace("_", "-")
        found = {step for step in document.steps if step in (name, *(f"{name}-{end}" for end in _OF_DEPLOYMENT))}
        if not found:
            raise ConfigError(f"submit.only: the document has no step {task!r}: {did_you_mean(name, document.steps)}")
        chosen |= found
    if len(chosen) > _MOST_STEPS:
        raise ConfigError(f"submit.only: {len(chosen)} steps; SageMaker takes {_MOST_STEPS} at most")
    return tuple(step for step in document.steps if step in chosen)


def _reference(session: Session, name: str, pipeline_arn: str, reference: str | None) -> str:
    """ARN of the execution whose results the steps that do not run have."""
    if reference is not None:
        return execution_arn(session, pipeline_arn, reference)
    for item in _executions(session, name):
        if item["PipelineExecutionStatus"] in ("Succeeded", "Failed"):
            return str(item["PipelineExecutionArn"])
    raise ConfigError(
        "submit.only: no execution of this pipeline has ended yet, so there are no results to go on from: submit the "
        "whole pipeline once, or name one: submit.reference=ARN"
    )


def _display_name(name: str) -> str:
    """The name in Studio: letters, digits and single signs between them, 82 at most."""
    return re.sub(r"[^a-zA-Z0-9]+", "-", name)[:82].strip("-") or "run"
