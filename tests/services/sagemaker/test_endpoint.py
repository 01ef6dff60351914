"""The endpoint of a pipeline: deployed after approval, rolled back, divided, scaled and deleted; nothing twice."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import boto3
import pytest

from millrace.errors import ConfigError, TaskFailedError, UnsupportedError
from millrace.registry import load_pipeline
from millrace.services.sagemaker import endpoints
from millrace.services.sagemaker.session import session
from millrace.targets.sagemaker import (
    Capture,
    Network,
    Registration,
    Rollout,
    SageMaker,
    ScheduledCapacity,
    Serving,
    Variant,
)
from tests.services.sagemaker.conftest import BUCKET, ROLE
from tests.services.sagemaker.fake import FakeAws, RefusalError

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/millrace/serve:1"
GROUP = "digits"


def client(name: str = "sagemaker") -> Any:
    return boto3.client(name)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownMemberType]  # of any name


def package(number: int, *, approved: bool = True) -> str:
    """Another version in the registry."""
    api = client()
    if number == 1:
        api.create_model_package_group(ModelPackageGroupName=GROUP)
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/{number}/model.tar.gz"}
    made = api.create_model_package(
        ModelPackageGroupName=GROUP,
        InferenceSpecification={
            "Containers": [container],
            "SupportedContentTypes": ["image/png"],
            "SupportedResponseMIMETypes": ["application/json"],
        },
        ModelApprovalStatus="Approved" if approved else "PendingManualApproval",
    )
    return str(made["ModelPackageArn"])


def found(target: SageMaker, **deploy: Any) -> endpoints.Deployed:
    pipeline = load_pipeline("digits")
    config = pipeline.config.model_validate({"deploy": {"name": "digits", **deploy}})
    return endpoints.find(session(target), pipeline.compose(config))


def serving(target: SageMaker, **fields: Any) -> SageMaker:
    given = Serving.model_validate({"registration": Registration(group=GROUP), **fields})
    return target.model_copy(update={"serving": given})


class Told(list[str]):
    def __call__(self, line: str) -> None:
        self.append(line)


def deploy(one: endpoints.Deployed, chosen: str | None = None) -> list[str]:
    told = Told()
    endpoints.deploy(one, chosen, follow=True, tell=told)
    return told


def test_the_newest_approved_version_is_deployed_once(aws: FakeAws, target: SageMaker) -> None:
    package(1)
    newest = package(2)
    package(3, approved=False)
    one = found(serving(target))
    told = deploy(one)
    assert any(newest in line for line in told)
    assert [name.partition(":")[2] for name in aws.changes()[4:]] == [
        "CreateModel",
        "CreateEndpointConfig",
        "CreateEndpoint",
        "AddTags",
    ]
    made = next(call for call in aws.calls if call.operation == "CreateModel").asked
    assert made["PrimaryContainer"] == {"ModelPackageName": newest}
    before = len(aws.changes())
    deploy(one)
    assert len(aws.changes()) == before, aws.changes()[before:]
    assert "InService" in endpoints.status(one)[0]


def test_what_is_not_approved_is_refused(aws: FakeAws, target: SageMaker) -> None:
    waiting = package(1, approved=False)
    one = found(serving(target))
    before = len(aws.changes())
    with pytest.raises(ConfigError, match=f"no version of it is approved: .*{waiting}"):
        deploy(one)
    with pytest.raises(ConfigError, match=r"endpoint\.package=.*: it is PendingManualApproval"):
        deploy(one, waiting)
    assert len(aws.changes()) == before


def test_without_a_group_or_role_it_is_said_what_to_give(aws: FakeAws, target: SageMaker) -> None:
    with pytest.raises(ConfigError, match=r"target\.serving\.registration\.group=NAME"):
        deploy(found(target))
    package(1)
    with pytest.raises(ConfigError, match=r"target\.role"):
        deploy(found(serving(target.model_copy(update={"role": None}))))


def test_update_and_rollback_go_by_the_rollout(aws: FakeAws, target: SageMaker) -> None:
    rollout = Rollout(kind="canary", percent=20, wait_minutes=3, alarms=("errors",))
    one = found(serving(target, rollout=rollout), scaling={"min_replicas": 2, "max_replicas": 2})
    first = package(1)
    deploy(one)
    config = client().describe_endpoint(EndpointName="digits")["EndpointConfigName"]
    package(2)
    aws.update_looks = 2
    told = deploy(one)
    assert any("Updating" in line for line in told)
    asked = next(call for call in aws.calls if call.operation == "UpdateEndpoint").asked
    routing = asked["DeploymentConfig"]["BlueGreenUpdatePolicy"]["TrafficRoutingConfiguration"]
    assert routing == {
        "Type": "CANARY",
        "WaitIntervalInSeconds": 180,
        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 20},
    }
    assert asked["DeploymentConfig"]["AutoRollbackConfiguration"] == {"Alarms": [{"AlarmName": "errors"}]}
    told_back = Told()
    now = endpoints.rollback(one, follow=True, tell=told_back)
    assert now is not None
    assert now.config == config
    before = len(aws.changes())
    with pytest.raises(ConfigError, match="no earlier configuration to go back to"):
        endpoints.rollback(one, follow=True, tell=told_back)
    assert len(aws.changes()) == before
    deploy(one, first)
    assert len(aws.changes()) == before, "the first version serves already"


def test_a_rollback_that_nobody_waits_for_leads_back_only_once(aws: FakeAws, target: SageMaker) -> None:
    one = found(serving(target))
    for number in (1, 2):
        package(number)
        deploy(one)
    assert endpoints.rollback(one, follow=False, tell=Told()) is None
    with pytest.raises(ConfigError, match="no earlier configuration"):
        endpoints.rollback(one, follow=False, tell=Told())


def test_a_rollout_that_alarms_end_fails_and_is_not_accepted(aws: FakeAws, target: SageMaker) -> None:
    one = found(serving(target))
    package(1)
    deploy(one)
    before = client().describe_endpoint(EndpointName="digits")["EndpointConfigName"]
    package(2)
    aws.update_failure = "The alarm errors is in ALARM state"
    with pytest.raises(TaskFailedError, match=rf"{before} serves: The alarm errors is in ALARM state"):
        deploy(one)
    tags = client().list_tags(ResourceArn=client().describe_endpoint(EndpointName="digits")["EndpointArn"])["Tags"]
    assert {"Key": "millrace:accepted", "Value": before} in tags


def test_variants_capture_keys_and_network(aws: FakeAws, target: SageMaker) -> None:
    package(1)
    client().create_model(ModelName="old", ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})
    changed = serving(
        target, weight=9, variants=(Variant(name="old", model="old", weight=1),), capture=Capture(percent=10)
    ).model_copy(
        update={
            "volume_key": "alias/volumes",
            "output_key": "alias/outputs",
            "tags": {"team": "vision"},
            "network": Network(subnets=("subnet-1",), security_groups=("sg-1",)),
        }
    )
    one = found(changed, scaling={"min_replicas": 2, "max_replicas": 2}, startup_timeout_seconds=300)
    deploy(one)
    asked = next(call for call in aws.calls if call.operation == "CreateEndpointConfig").asked
    assert [(item["VariantName"], item["InitialVariantWeight"]) for item in asked["ProductionVariants"]] == [
        ("main", 9),
        ("old", 1),
    ]
    assert asked["ProductionVariants"][0]["InitialInstanceCount"] == 2
    assert asked["ProductionVariants"][0]["ContainerStartupHealthCheckTimeoutInSeconds"] == 300
    assert asked["KmsKeyId"] == "alias/volumes"
    assert asked["DataCaptureConfig"]["DestinationS3Uri"] == f"s3://{BUCKET}/millrace/digits/captured/deploy"
    assert asked["DataCaptureConfig"]["KmsKeyId"] == "alias/outputs"
    assert asked["Tags"] == [{"Key": "team", "Value": "vision"}]
    model = next(call for call in aws.calls if call.operation == "CreateModel" and "digits" in call.asked["ModelName"])
    assert model.asked["VpcConfig"] == {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]}

    told = Told()
    endpoints.weights(one, {"main": 1, "old": 1}, follow=True, tell=told)
    assert {item["VariantName"]: item["CurrentWeight"] for item in client().describe_endpoint(EndpointName="digits")[
        "ProductionVariants"]} == {"main": 1, "old": 1}  # fmt: skip
    before = len(aws.changes())
    endpoints.weights(one, {"main": 1}, follow=True, tell=told)
    assert len(aws.changes()) == before
    with pytest.raises(ConfigError, match=r"endpoint\.weights\.new: .* no such variant, but main, old"):
        endpoints.weights(one, {"new": 1}, follow=True, tell=told)
    with pytest.raises(ConfigError, match="no variant would get any requests"):
        endpoints.weights(one, {"main": 0, "old": 0}, follow=True, tell=told)


def test_scaling_is_set_changed_and_ended(aws: FakeAws, target: SageMaker) -> None:
    package(1)
    scaled = {"min_replicas": 1, "max_replicas": 4, "metric": "rps", "target": 5}
    nights = ScheduledCapacity(name="night", schedule="cron(0 20 * * ? *)", timezone="Europe/Berlin", max_replicas=1)
    one = found(serving(target, scheduled=(nights,)), scaling=scaled)
    deploy(one)
    scaler = client("application-autoscaling")
    place: dict[str, Any] = {"ServiceNamespace": "sagemaker", "ResourceId": "endpoint/digits/variant/main"}
    held = scaler.describe_scaling_policies(**place)["ScalingPolicies"][0]["TargetTrackingScalingPolicyConfiguration"]
    assert held["TargetValue"] == 300
    assert held["PredefinedMetricSpecification"]["PredefinedMetricType"] == "SageMakerVariantInvocationsPerInstance"
    action = scaler.describe_scheduled_actions(**place)["ScheduledActions"][0]
    assert (action["ScheduledActionName"], action["Timezone"]) == ("millrace-night", "Europe/Berlin")
    assert action["ScalableTargetAction"] == {"MaxCapacity": 1}
    before = len(aws.changes())
    deploy(one)
    assert len(aws.changes()) == before, aws.changes()[before:]

    deploy(found(serving(target), scaling={"min_replicas": 1, "max_replicas": 4, "metric": "cpu", "target": 60}))
    assert scaler.describe_scheduled_actions(**place)["ScheduledActions"] == []
    held = scaler.describe_scaling_policies(**place)["ScalingPolicies"][0]["TargetTrackingScalingPolicyConfiguration"]
    assert held["TargetValue"] == 120, "two processors, of which CloudWatch adds up the load"
    assert held["CustomizedMetricSpecification"]["MetricName"] == "CPUUtilization"

    deploy(found(serving(target)))
    assert scaler.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"] == []


def test_delete_leaves_nothing_but_models(aws: FakeAws, target: SageMaker) -> None:
    one = found(serving(target), scaling={"max_replicas": 2, "metric": "concurrency", "target": 3})
    for number in (1, 2):
        package(number)
        deploy(one)
    told = Told()
    endpoints.delete(one, follow=True, tell=told)
    api = client()
    assert api.list_endpoints()["Endpoints"] == []
    assert api.list_endpoint_configs()["EndpointConfigs"] == []
    assert client("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")[
        "ScalableTargets"
    ] == []  # fmt: skip
    before = len(aws.changes())
    endpoints.delete(one, follow=True, tell=told)
    assert len(aws.changes()) == before
    assert told[-1] == "endpoint digits: there is none"


@pytest.mark.parametrize(
    ("deploy", "fields", "message"),
    [
        ({"name": "my_model"}, {}, r"deploy\.name='my_model'"),
        ({"name": "m" * 51}, {}, "at most 50"),
        ({"port": 8080}, {}, r"deploy\.port=8080: SageMaker chooses it"),
        ({"host": "0.0.0.0"}, {}, r"deploy\.host=0\.0\.0\.0"),
        ({"timeout_seconds": 90}, {}, r"deploy\.timeout_seconds=90"),
        ({"max_body_mib": 30}, {}, r"deploy\.max_body_mib=30"),
        ({"startup_timeout_seconds": 4000}, {}, r"deploy\.startup_timeout_seconds=4000"),
        ({"scaling": {"min_replicas": 0}}, {}, r"deploy\.scaling\.min_replicas=0"),
        ({"scaling": {"max_replicas": 3, "metric": "rps"}}, {}, r"scaling\.metric=rps: SageMaker needs the number"),
        ({"canary": {"percent": 60}}, {}, r"canary\.percent=60"),
        ({"canary": {"percent": 0}}, {}, r"canary\.percent=0"),
        ({"canary": {"promote": False}}, {}, r"canary\.promote=false"),
        ({}, {"custom_metric": {"name": "n", "namespace": "s", "target": 1}}, r"scaling: target\.serving\.custom"),
        ({}, {"scheduled": ({"name": "a", "schedule": "rate(1 day)"},)}, r"scaling: target\.serving\.scheduled"),
        (
            {"scaling": {"max_replicas": 2, "metric": "cpu"}},
            {"instance": "ml.xyz.large"},
            "not known here: scale by rps",
        ),
        (
            {"scaling": {"max_replicas": 2}},
            {"scheduled": ({"name": "a", "schedule": "daily", "max_replicas": 3},)},
            r"scheduled\[a\]\.schedule='daily'",
        ),
        ({}, {"variants": ({"name": "main", "model": "m"},)}, "two variants are called 'main'"),
        ({}, {"weight": 0}, "no variant gets any requests"),
        ({}, {"capture": {"requests": False, "answers": False}}, "keep nothing"),
    ],
)
def test_what_no_endpoint_can_do_is_refused(
    deploy: dict[str, Any], fields: dict[str, Any], message: str, target: SageMaker
) -> None:
    with pytest.raises((ConfigError, UnsupportedError), match=message):
        found(serving(target, **fields), **deploy)


def millrace(*words: str) -> subprocess.CompletedProcess[str]:
    settled = (f"target.role={ROLE}", f"target.bucket={BUCKET}", "target.session.poll_seconds=0.05")
    return subprocess.run(
        [sys.executable, "-m", "millrace", "endpoint", "pipeline=digits", "target=sagemaker", *settled, *words],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command(aws: FakeAws) -> None:
    package(1)
    group = f"target.serving.registration.group={GROUP}"
    done = millrace(group, "deploy.name=digits", "endpoint.action=deploy")
    assert done.returncode == 0, done.stderr
    assert "endpoint digits: takes configuration digits-" in done.stdout
    assert "digits: InService, configuration digits-" in done.stdout
    wrong = millrace(group, "endpoint.action=status", "endpoint.weights={main:1}")
    assert wrong.returncode == 2
    assert "endpoint.weights: endpoint.action=status changes none" in wrong.stderr
    done = millrace(group, "deploy.name=digits", "endpoint.action=delete")
    assert done.returncode == 0, done.stderr
    assert "digits: deleted, with its configurations digits-" in done.stdout


def test_refusals_of_aws_are_messages(aws: FakeAws) -> None:
    aws.broken = lambda call: RefusalError("no", "AccessDeniedException") if call.service == "sagemaker" else None
    done = millrace("endpoint.action=status")
    assert done.returncode == 2
    assert "sagemaker:DescribeEndpoint is not allowed" in done.stderr
    assert "Traceback" not in done.stderr
