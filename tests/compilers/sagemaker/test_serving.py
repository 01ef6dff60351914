"""Deployments and batch transform: each request is one that botocore and our own check take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millrace.compilers.sagemaker import compile_pipeline
from millrace.compilers.sagemaker.check import check_document
from millrace.compilers.sagemaker.context import Compiling
from millrace.compilers.sagemaker.serving import serving_notes
from millrace.errors import ConfigError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.specs import OpenField, PipelineSpec, RuntimeParameter, TaskOutput
from millrace.targets.sagemaker import EndpointWork, SageMaker
from tests.compilers.sagemaker.definitions import Definition, sagemaker, with_task

EXECUTION = {"Get": "Execution.PipelineExecutionId"}
TWO = {"min_replicas": 2, "max_replicas": 2}
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
    assert work == EndpointWork(
        name="digits", config="digits-abc", variant="main", region="us-east-1", cpus=2, rollout_seconds=3600
    )


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
    made = compiled(spec(deploy={"canary": canary, "scaling": TWO}), {"rollout": rollout})
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
        ({"canary": {}}, {}, r"deploy\.scaling\.min_replicas=1: a canary rollout .*half.*deploy\.canary=null"),
        ({}, {"rollout": {"kind": "linear"}}, r"deploy\.scaling\.min_replicas=1: a linear rollout"),
        (
            {"scaling": TWO},
            {"rollout": {"kind": "canary"}, "variants": [{"name": "b", "model": "m"}]},
            r"target\.serving\.variants\[b\]\.count=1: a canary rollout",
        ),
        ({}, {"rollout": {"kind": "linear", "percent": 5}}, r"target\.serving\.rollout\.percent=5"),
        ({}, {"registration": {"group": "g", "description": "x" * 300}}, "300 characters; a step"),
    ],
)
def test_what_can_not_be_meant_is_refused(config: dict[str, Any], serving: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=message):
        compiled(spec(deploy=config), serving)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"serving": {"registration": {"group": "g"}}}, r"target\.serving\.registration: with .*kind=none"),
        (
            {"serving": {"rollout": {"alarms": ["a"]}}},
            r"target\.serving\.rollout: .*set target\.serving\.kind=endpoint",
        ),
        ({"serving": {"variants": [{"name": "b", "model": "m"}]}}, r"target\.serving\.variants"),
        ({"serving": {"capture": {}}}, r"target\.serving\.capture"),
        ({"serving": {"instance": "ml.m5.large"}}, r"target\.serving\.instance"),
        ({"transform": {"concurrent": 2}}, r"target\.transform\.concurrent: .*set target\.transform\.kind=job"),
        ({"transform": {"payload_mib": 7}}, r"target\.transform\.payload_mib"),
    ],
)
def test_settings_of_what_is_not_made_are_refused(fields: dict[str, Any], message: str) -> None:
    serving = {"kind": "none", **fields.get("serving", {})}
    with pytest.raises(ConfigError, match=message):
        compiled(spec(predict={}), serving, transform={"kind": "task", **fields.get("transform", {})})


def twice(first: PipelineSpec, **parameters: Any) -> PipelineSpec:
    """A pipeline with a second deployment of the same model."""
    task = first.task("deploy")
    second = task.model_copy(update={"name": "again", "parameters": {**task.parameters, **parameters}})
    return first.model_copy(update={"tasks": (*first.tasks, second)})


def test_two_deployments_have_two_endpoints() -> None:
    made = compiled(twice(spec(), name="other"))
    assert made.request("again-endpoint")["EndpointName"] == "other"
    with pytest.raises(ConfigError, match=r"tasks\.deploy, tasks\.again: .*'model'.* deploy\.name and again\.name"):
        compiled(twice(spec()))
    one = {"name": "again.name", "kind": "string", "default": "model", "fills": [OpenField(task="again", path="name")]}
    opened = twice(spec(), name="other").model_copy(
        update={"runtime_parameters": (RuntimeParameter.model_validate(one),)}
    )
    with pytest.raises(ConfigError, match="both deploy to the endpoint 'model'"):
        compiled(opened)
    registry = {"kind": "registry", "registration": {"group": "digits"}}
    assert "again-register" in compiled(twice(spec()), registry).steps


def notes(pipeline: PipelineSpec, serving: dict[str, Any], **settings: Any) -> list[str]:
    return list(serving_notes(Compiling.of(pipeline, sagemaker(serving=serving, **settings))))


def test_the_step_that_asks_the_endpoint_is_not_isolated() -> None:
    network = {"subnets": ["subnet-1"], "security_groups": ["sg-1"], "isolate": True}
    made = compiled(spec(), network=network)
    assert made.request("deploy")["NetworkConfig"].keys() == {"VpcConfig"}
    assert made.request("deploy-model")["EnableNetworkIsolation"] is True
    assert made.request("evaluate")["NetworkConfig"]["EnableNetworkIsolation"] is True
    alone = compiled(spec(), network={"isolate": True})
    assert "NetworkConfig" not in alone.request("deploy")
    assert [one.partition(":")[0] for one in notes(spec(), {}, network=network)] == ["deploy is not isolated"]
    assert notes(spec(), {}) == notes(spec(), {"kind": "none"}, network=network) == []
    here = compiled(spec(), {"kind": "none"}, network=network)
    assert here.request("deploy")["NetworkConfig"]["EnableNetworkIsolation"] is True


def test_a_version_without_metrics_is_noted() -> None:
    registration = {"registration": {"group": "digits"}}
    assert notes(spec(), registration) == []
    [ungated] = notes(with_task(spec(), "deploy", conditions=()), registration)
    assert ungated.startswith("deploy-register: the version in the registry has no metrics, as no condition")
    [condition] = spec().task("deploy").conditions
    by_training = condition.model_copy(update={"metric": TaskOutput(task="train", port="accuracy")})
    gated = with_task(spec(), "deploy", conditions=(by_training,))
    assert ["as its conditions read no task's metrics.json" in one for one in notes(gated, registration)] == [True]
    assert "ModelMetrics" not in compiled(gated, registration).request("deploy-register")


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
        container = made.request("predict-model")["PrimaryContainer"]
        assert container["Environment"] == {"MILLRACE_MAX_BATCH_SIZE": "8", "MILLRACE_MAX_BODY_MIB": "6"}
        assert container["ModelDataUrl"] == {"Get": "Steps.train.ModelArtifacts.S3ModelArtifacts"}
        assert "ModelDataSource" not in container

    def test_a_model_that_is_no_archive_is_refused(self) -> None:
        pipeline = spec(predict={})
        small = {**pipeline.task("predict").inputs, "model": (TaskOutput(task="quantize", port="model"),)}
        told = r"tasks\.predict\.inputs\.model: quantize\.model: .*\(train\.model\), .*target\.transform\.kind=task"
        with pytest.raises(UnsupportedError, match=told):
            compiled(with_task(pipeline, "predict", inputs=small))
        with pytest.raises(UnsupportedError, match=r"train\.model: .*compression=none, .*take gzip, .*kind=task"):
            compiled(pipeline, training={"compression": "none"})
        compiled(with_task(pipeline, "predict", inputs=small), transform={"kind": "task"})

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
    texts = {compiled(spec(predict={}, deploy={"scaling": TWO}), serving).text for _ in range(2)}
    assert len(texts) == 1
    assert json.loads(texts.pop())["Version"] == "2020-12-01"
