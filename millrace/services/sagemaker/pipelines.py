"""Pipelines of an account: one for each name, changed only when something differs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from millrace.errors import ConfigError
from millrace.services.sagemaker.document import Document, refuse_images
from millrace.services.sagemaker.failures import ServiceError
from millrace.services.sagemaker.links import pipeline_link
from millrace.services.sagemaker.marks import mark, read_mark
from millrace.services.sagemaker.session import Session
from millrace.services.sagemaker.uploads import upload_definition
from millrace.targets.sagemaker import SageMaker

__all__ = ["Upserted", "find_pipeline", "pipeline_role", "upsert_pipeline"]

_LARGE = 100_000
"""Bytes from which a definition goes by way of S3."""


class Upserted(NamedTuple):
    """A pipeline in SageMaker."""

    arn: str
    change: str
    """What happened: created, updated, unchanged."""
    link: str
    location: str = ""
    """Where the definition was put in S3, when it is large."""


def upsert_pipeline(session: Session, document: Document, role: str) -> Upserted:
    """Create the pipeline or bring it up to date; where nothing differs, nothing is changed.

    Args:
        session: Who asks.
        document: The compiled pipeline.
        role: ARN of the role with which the pipeline starts its jobs.

    Raises:
        UnsupportedError: When images are not in ECR.
        ServiceError: When AWS can't be reached or refuses.
    """
    target = session.target
    refuse_images(document, target)
    found = find_pipeline(session, document.name)
    tags = _missing_tags(session, found) if found else {}
    if found and not tags and _same(found, document, role, target):
        return Upserted(found["PipelineArn"], "unchanged", pipeline_link(session, document.name))
    asked, location = _fields(session, document, role)
    if found is None:
        try:
            arn = _create(session, document, asked)
            return Upserted(arn, "created", pipeline_link(session, document.name), location)
        except ServiceError as error:
            found = find_pipeline(session, document.name)
            if found is None or error.code not in (
                "ConflictException",
                "ValidationException",
            ):  # else somebody else was faster
                raise
    arn = str(found["PipelineArn"])
    if not _same(found, document, role, target):
        session.call("sagemaker", "update_pipeline", **asked)
    if tags:
        session.call("sagemaker", "add_tags", ResourceArn=arn, Tags=_listed(tags))
    return Upserted(arn, "updated", pipeline_link(session, document.name), location)


def find_pipeline(session: Session, name: str) -> dict[str, Any] | None:
    """What SageMaker knows of the pipeline of this name; None when there is none."""
    try:
        return session.call("sagemaker", "describe_pipeline", PipelineName=name)
    except ServiceError as error:
        if error.missing:
            return None
        raise


def pipeline_role(target: SageMaker, given: Mapping[str, str]) -> str:
    """The role of the pipeline itself: the target's, or the one that its jobs get by the parameter `role`.

    Raises:
        ConfigError: When there is none.
    """
    role = target.role or given.get("role")
    if role is None:
        raise ConfigError(
            "target.role is not set: the ARN of the role that the pipeline and its jobs run with, "
            "target.role=arn:aws:iam::ACCOUNT:role/NAME; what it must be allowed: millrace iam target=sagemaker"
        )
    return role


def _fields(session: Session, document: Document, role: str) -> tuple[dict[str, Any], str]:
    target = session.target
    asked: dict[str, Any] = {
        "PipelineName": document.name,
        "PipelineDisplayName": document.name,
        "PipelineDescription": f"Compiled by Millrace. {mark('definition', document.name, document.digest)}",
        "RoleArn": role,
    }
    if target.parallel is not None:
        asked["ParallelismConfiguration"] = {"MaxParallelExecutionSteps": target.parallel}
    if len(document.text.encode()) <= _LARGE:
        return asked | {"PipelineDefinition": document.text}, ""
    uploaded = upload_definition(session, document.text)
    where = {"Bucket": uploaded.bucket, "ObjectKey": uploaded.key}
    return asked | {"PipelineDefinitionS3Location": where}, uploaded.uri


def _create(session: Session, document: Document, asked: Mapping[str, Any]) -> str:
    tags = {"Tags": _listed(session.target.tags)} if session.target.tags else {}
    return str(session.call("sagemaker", "create_pipeline", **asked, **tags)["PipelineArn"])


def _same(found: Mapping[str, Any], document: Document, role: str, target: SageMaker) -> bool:
    known = read_mark("definition", found.get("PipelineDescription"))
    parallel = (found.get("ParallelismConfiguration") or {}).get("MaxParallelExecutionSteps")
    return (
        known == (document.name, document.digest)
        and _same_definition(found.get("PipelineDefinition"), document)
        and found.get("RoleArn") == role
        and (target.parallel is None or parallel == target.parallel)
    )


def _same_definition(text: object, document: Document) -> bool:
    """Whether nobody has changed it since; a large one may be told by its place only, and then the mark counts."""
    try:
        return bool(json.loads(str(text)) == document.definition) if text else True
    except ValueError:
        return True


def _missing_tags(session: Session, found: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the target that the pipeline has not, or with another value."""
    wanted = session.target.tags
    if not wanted:
        return {}
    listed = session.pages("sagemaker", "list_tags", "Tags", ResourceArn=found["PipelineArn"])
    known = {tag["Key"]: tag["Value"] for tag in listed}
    return {key: value for key, value in wanted.items() if known.get(key) != value}


def _listed(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]
