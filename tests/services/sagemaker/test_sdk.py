"""Compiled pipelines in the hands of the SageMaker Python SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from millrace.errors import ConfigError, DataError
from millrace.services.sagemaker.sdk import sdk_pipeline
from tests.conftest import Bucket

GOLDENS = Path(__file__).parents[2] / "goldens" / "sagemaker"
ROLE = "arn:aws:iam::123456789012:role/millrace"


@pytest.fixture
def session(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session of the SDK with moto's server."""
    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    from sagemaker.core.workflow.pipeline_context import PipelineSession

    telemetry = {"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"TelemetryOptOut": True}}}}
    boto = boto3.Session(region_name="us-east-1")
    return PipelineSession(boto_session=boto, default_bucket=s3.name, sagemaker_config=telemetry)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "everything"])
def test_the_definition_is_the_document_and_is_stored(session: Any, name: str) -> None:
    text = (GOLDENS / f"{name}.json").read_text()
    pipeline = sdk_pipeline(text, f"golden-{name}", role=ROLE, session=session)
    assert json.loads(pipeline.definition()) == json.loads(text)
    pipeline.upsert()
    stored = session.sagemaker_client.describe_pipeline(PipelineName=f"golden-{name}")
    assert json.loads(stored["PipelineDefinition"]) == json.loads(text)
    assert stored["RoleArn"] == ROLE
    assert pipeline.upsert(role_arn=f"{ROLE}-2")["PipelineArn"] == stored["PipelineArn"]
    assert session.sagemaker_client.describe_pipeline(PipelineName=f"golden-{name}")["RoleArn"] == f"{ROLE}-2"
    started = pipeline.start(parameters={"role": ROLE, "bucket": "b"})
    assert started.describe()["PipelineExecutionStatus"] == "Succeeded"


@pytest.mark.slow
def test_steps_of_the_sdk_are_added(session: Any) -> None:
    from sagemaker.mlops.workflow.fail_step import FailStep

    text = (GOLDENS / "digits.json").read_text()
    pipeline = sdk_pipeline(text, "mine", session=session)
    pipeline.steps.append(FailStep(name="mine", error_message="enough", depends_on=[pipeline.steps[-1].name]))
    written = json.loads(pipeline.definition())
    assert written["Steps"][:-1] == json.loads(text)["Steps"]
    assert written["Steps"][-1]["Type"] == "Fail"


@pytest.mark.parametrize(("text", "told"), [("{", "it is not JSON"), ("[]", "a JSON object with a list of Steps")])
def test_what_is_no_document(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        sdk_pipeline(text, "x")


@pytest.mark.slow
def test_a_parameter_of_a_type_that_there_is_not(session: Any) -> None:
    document = {"Version": "2020-12-01", "Parameters": [{"Name": "when", "Type": "Date"}], "Steps": []}
    with pytest.raises(DataError, match="parameter 'when' is of the type 'Date'; known ones are String, Integer"):
        sdk_pipeline(json.dumps(document), "x", session=session)
