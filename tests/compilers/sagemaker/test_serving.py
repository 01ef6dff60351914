"""Deployments and batch transform: each request is one that botocore and our own check take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millrace.compilers.sagemaker import compile_pipeline
from millrace.compilers.sagemaker.check import check_document
from millrace.errors import ConfigError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.specs import OpenField, PipelineSpec, RuntimeParameter
from millrace.targets.sagemaker import EndpointWork, SageMaker
from tests.compilers.sagemaker.definitions import Definition, sagemaker

EXECUTION = {"Get": "Execution.PipelineExecutionId"}
MODEL = "Steps.quantize.ProcessingOutputConfig.Outputs['model'].S3Output.S3Uri"


def spec(**config: Any) -> PipelineSpec:
    return digits.compose(Digits.model_validate(config))


def compiled(pipeline: PipelineSpec, serving: dict[str, Any] | None = None, **settings: Any) -> Definition:
    target: SageMaker = sagemaker(serving=serving or {}, **settings)
    text = compile_pipeline(pipeline, target)
    assert [str(one) for one in check_document(text) if one.severity == "error"] == []
    return Definition(text)


def told(definition: Definition, **values: str) -> EndpointWork:
    """What the step that checks is told, with values in place of what only an execution knows."""
    words = definition.words("deploy")
    pieces = words[words.index("--endpoint") + 1 :]
    text = "".join(piece if isinstance(piece, str) else values[piece["Get"]] for piece in pieces)
    return EndpointWork.model_validate_json(text)


def test_a_deployment_is_a_model_a_configuration_an_endpoint_and_a_check() -> None:
    made = compiled(spec(deploy={"name": "digits"}))
    source = {
        "S3Uri": {"Std:Join": {"On": "", "Values": [{"Get": MODEL}, "/"]}},
        "S3DataType": "S3Prefix",
        "CompressionType": "None",
    }
    container = made.request("deploy-model")["PrimaryContainer"]
    assert container["ModelDataSource"] == {"S3DataSource": source}
    assert container["Environment"] == {"MILLRACE_MODEL_NAME": "digits"}
    config = made.request("deploy-config")
    assert config["EndpointConfigName"] == {"Std:Join": {"On": "-", "Values": ["digits", EXECUTION]}}
    assert config["ProductionVariants"][0]["ModelName"] == {"Get": "Steps.deploy-model.ModelName"}
    endpoint = made.request("deploy-endpoint")
    assert endpoint["EndpointName"] == "digits"
    assert endpoint["EndpointConfigName"] == {"Get": "Steps.deploy-config.EndpointConfigName"}
    assert "RetryPolicies" not in made.steps["deploy-endpoint"]
    check = made.steps["deploy"]
    assert check["DependsOn"] == ["deploy-endpoint"]
    assert "CacheConfig" not in check
    work = told(made, **{"Steps.deploy-config.EndpointConfigName": "digits-abc"})
    assert work == EndpointWork(name="digits", config="digits-abc", variant="main", region="us-east-1", cpus=2)


def test_limits_and_variables_of_the_server() -> None:
    made = compiled(
        spec(deploy={"max_batch_size": 64, "max_delay_ms": 5}),
        job={"environment": {"TF_CPP_MIN_LOG_LEVEL": "2"}},
    )
    assert made.request("deploy-model")["PrimaryContainer"]["Environment"] == {
        "MILLRACE_MAX_BATCH_SIZE": "64",
        "MILLRACE_MAX_DELAY_MS": "5.0",
        "MILLRACE_MODEL_NAME": "model",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def test_open_fields_of_the_server_and_the_name() -> None:
    pipeline = spec()
    opened = [("deploy.name", "string", "digits"), ("deploy.max_queue", "integer", 512)]
    parameters = tuple(
        RuntimeParameter.model_validate(
            {"name": name, "kind": kind, "default": default, "fills": [OpenField(task="deploy", path=name[7:])]}
        )
        for name, kind, default in opened
    )
    made = compiled(pipeline.model_copy(update={"runtime_parameters": parameters}))
    assert made.request("deploy-endpoint")["EndpointName"] == {"Get": "Parameters.deploy_name"}
    environment = made.request("deploy-model")["PrimaryContainer"]["Environment"]
    assert environment["MILLRACE_MODEL_NAME"] == {"Get": "Parameters.deploy_name"}
    assert environment["MILLRACE_MAX_QUEUE"] == {
        "Std:Join": {"On": "", "Values": [{"Get": "Parameters.deploy_max_queue"}]}
    }
    work = told(made, **{"Steps.deploy-config.EndpointConfigName": "c", "Parameters.deploy_name": "mine"})
    assert work.name == "mine"


@pytest.mark.parametrize(
    ("rollout", "canary", "routing"),
    [
        ({}, None, {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 0}),
        ({"alarms": ["a"]}, None, {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": 300}),
        (
            {"kind": "linear", "percent": 25, "wait_minutes": 2},
            None,
            {
                "Type": "LINEAR",
                "WaitIntervalInSeconds": 120,
                "LinearStepSize": {"Type": "CAPACITY_PERCENT", "Value": 25},
            },
        ),
        (
            {"wait_minutes": 7},
            {"percent": 30},
            {"Type": "CANARY", "WaitIntervalInSeconds": 420, "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 30}},
        ),
    ],
)
def test_rollouts(rollout: dict[str, Any], canary: dict[str, Any] | None, routing: dict[str, Any]) -> None:
    made = compiled(spec(deploy={"canary": canary}), {"rollout": rollout})
    policy = made.request("deploy-endpoint")["DeploymentConfig"]["BlueGreenUpdatePolicy"]
    assert policy["TrafficRoutingConfiguration"] == routing


def test_a_registered_model_has_the_metrics_of_its_gate_and_waits_for_the_checks() -> None:
    made = compiled(spec(), {"registration": {"group": "digits", "description": "of numbers"}})
    step = made.steps["deploy-register"]
    assert step["DependsOn"] == ["deploy"]
    metrics = step["Arguments"]["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]["Std:Join"]["Values"]
    assert metrics == [
        {"Get": "Steps.evaluate.ProcessingOutputConfig.Outputs['metrics'].S3Output.S3Uri"},
        "metrics.json",
    ]
    assert step["Arguments"]["ModelApprovalStatus"] == "PendingManualApproval"
    assert step["Arguments"]["CustomerMetadataProperties"]["description"] == "of numbers"


def test_the_registry_alone() -> None:
    made = compiled(spec(), {"kind": "registry", "registration": {"group": "digits", "approval": "Approved"}})
    assert [name for name in made.steps if name.startswith("deploy")] == ["deploy-register"]


def test_no_serving_checks_the_endpoint_in_its_step() -> None:
    made = compiled(spec(), {"kind": "none"})
    assert [name for name in made.steps if name.startswith("deploy")] == ["deploy"]
    assert "--endpoint" not in made.words("deploy")


@pytest.mark.parametrize(
    ("config", "serving", "message"),
    [
        ({"host": "0.0.0.0"}, {}, r"deploy\.host=0\.0\.0\.0: SageMaker chooses it"),
        ({"name": "a_b"}, {}, r"deploy\.name='a_b'"),
        ({"canary": {}}, {"rollout": {"kind": "linear"}}, r"deploy\.canary\.percent=10: .*kind=linear"),
        ({}, {"rollout": {"kind": "linear", "percent": 5}}, r"target\.serving\.rollout\.percent=5"),
        ({}, {"registration": {"group": "g", "description": "x" * 300}}, "300 characters; a step"),
    ],
)
def test_what_can_not_be_meant_is_refused(config: dict[str, Any], serving: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=message):
        compiled(spec(deploy=config), serving)


def test_fields_that_the_configuration_fixes_can_not_stay_open() -> None:
    one = RuntimeParameter.model_validate(
        {
            "name": "deploy.startup_timeout_seconds",
            "kind": "float",
            "default": 100.0,
            "fills": [OpenField(task="deploy", path="startup_timeout_seconds")],
        }
    )
    with pytest.raises(UnsupportedError, match=r"runtime: deploy\.startup_timeout_seconds can't stay open"):
        compiled(spec().model_copy(update={"runtime_parameters": (one,)}))


class TestTransform:
    def test_a_transform_job_asks_the_serve_image(self) -> None:
        made = compiled(spec(predict={"max_batch_size": 8}), {"kind": "none"}, transform={"concurrent": 4})
        request = made.request("predict")
        assert made.steps["predict"]["Type"] == "Transform"
        assert request["ModelName"] == {"Get": "Steps.predict-model.ModelName"}
        assert request["TransformResources"]["InstanceCount"] == 2
        assert request["MaxPayloadInMB"] == 6
        uri = request["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"]["Std:Join"]["Values"]
        assert uri == [{"Get": "Steps.pictures.ProcessingOutputConfig.Outputs['dataset'].S3Output.S3Uri"}, "/"]
        environment = made.request("predict-model")["PrimaryContainer"]["Environment"]
        assert environment == {"MILLRACE_MAX_BATCH_SIZE": "8", "MILLRACE_MAX_BODY_MIB": "6"}

    def test_or_the_component_does_it(self) -> None:
        made = compiled(spec(predict={}), {"kind": "none"}, transform={"kind": "task"})
        assert made.steps["predict"]["Type"] == "Processing"
        assert made.request("predict")["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 2

    def test_rejects_can_not_be_allowed(self) -> None:
        with pytest.raises(UnsupportedError, match=r"predict\.max_error_rate=0\.1: .*target\.transform\.kind=task"):
            compiled(spec(predict={"max_error_rate": 0.1}))

    def test_too_much_at_once(self) -> None:
        with pytest.raises(UnsupportedError, match=r"target\.transform\.concurrent=20: .* 100 MiB"):
            compiled(spec(predict={}), transform={"concurrent": 20})


def test_compiling_twice_gives_the_same_bytes() -> None:
    serving = {"registration": {"group": "g"}, "capture": {}, "rollout": {"kind": "canary"}}
    texts = {compiled(spec(predict={}), serving).text for _ in range(2)}
    assert len(texts) == 1
    assert json.loads(texts.pop())["Version"] == "2020-12-01"
