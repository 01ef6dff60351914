"""Policies with what a definition uses, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest

from millrace.compilers.sagemaker.iam import Policies, policies
from millrace.targets.sagemaker import SageMaker

_ROLE = "arn:aws:iam::123456789012:role/jobs"
_TARGET = SageMaker(role=_ROLE, bucket="lab", prefix="team/flowers", region="eu-west-1")
_RUN = {"Get": "Execution.PipelineExecutionId"}


def _join(*values: Any) -> Any:
    return {"Std:Join": {"On": "/", "Values": list(values)}}


def _processing(**more: Any) -> Any:
    arguments = {
        "AppSpecification": {
            "ImageUri": "123456789012.dkr.ecr.eu-west-1.amazonaws.com/millrace/data@sha256:" + "0" * 64,
            "ContainerArguments": ["--parameters", '{"source":"s3://pictures/2026/flo', 'wers","split":{}}'],
        },
        "ProcessingOutputConfig": {
            "Outputs": [{"S3Output": {"S3Uri": _join("s3://lab/team/flowers/digits", _RUN, "manifest/objects")}}]
        },
        "RoleArn": _ROLE,
        **more,
    }
    return {"Name": "manifest", "Type": "Processing", "Arguments": arguments}


def _training(**more: Any) -> Any:
    source = {"S3Uri": {"Get": "Steps.manifest.ProcessingOutputConfig.Outputs['objects'].S3Output.S3Uri"}}
    arguments = {
        "AlgorithmSpecification": {"TrainingImage": "millrace/train:0.1.0"},
        "InputDataConfig": [{"DataSource": {"S3DataSource": source}}],
        "OutputDataConfig": {"S3OutputPath": _join("s3://lab/team/flowers/digits", _RUN, "train")},
        **more,
    }
    return {"Name": "train", "Type": "Training", "Arguments": arguments}


def _policies(*steps: Any, target: SageMaker = _TARGET, **more: Any) -> Policies:
    return policies(json.dumps({"Version": "2020-12-01", "Steps": list(steps), **more}), "digits", target)


def _statements(found: Policies, document: str = "execution") -> dict[str, Any]:
    return {statement["Sid"]: statement for statement in found.documents[document]["Statement"]}


def _actions(found: Policies) -> Iterator[str]:
    for document in found.documents.values():
        for statement in document["Statement"]:
            action = statement["Action"]
            yield from [action] if isinstance(action, str) else action


def test_only_what_the_steps_do_is_allowed() -> None:
    found = _statements(_policies(_processing()))
    assert "sagemaker:CreateProcessingJob" in found["RunProcessing"]["Action"]
    assert found["RunProcessing"]["Resource"] == ["arn:aws:sagemaker:eu-west-1:123456789012:processing-job/pipelines-*"]
    assert not {"RunTraining", "RunEndpoint", "UseKeys", "JoinNetwork", "Tag", "RecordExperiments"} & found.keys()


def test_objects_are_read_and_written_where_the_document_says() -> None:
    found = _statements(_policies(_processing(), _training()))
    assert found["WriteObjects"]["Resource"] == ["arn:aws:s3:::lab/team/flowers/digits/*"]
    assert found["ReadObjects"]["Resource"] == [
        "arn:aws:s3:::lab/team/flowers/digits/*",
        "arn:aws:s3:::pictures/2026/flowers*",
    ]
    assert found["Listpictures"]["Condition"] == {"StringLike": {"s3:prefix": ["2026/flowers*"]}}


def test_images_of_the_registry_may_be_pulled() -> None:
    found = _statements(_policies(_processing(), _training()))
    assert found["PullImages"]["Resource"] == ["arn:aws:ecr:eu-west-1:123456789012:repository/millrace/data"]
    assert "PullImages" not in _statements(_policies(_training()))


def test_keys_networks_and_tags_when_they_are_used() -> None:
    found = _statements(
        _policies(
            _training(
                ResourceConfig={"VolumeKmsKeyId": "1234abcd"},
                VpcConfig={"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]},
                Tags=[{"Key": "team", "Value": "lab"}],
            ),
            PipelineExperimentConfig={"ExperimentName": "digits"},
        )
    )
    assert found["UseKeys"]["Resource"] == ["arn:aws:kms:eu-west-1:123456789012:key/1234abcd"]
    assert "ec2:CreateNetworkInterface" in found["JoinNetwork"]["Action"]
    assert {"Tag", "RecordExperiments"} <= found.keys()


def test_an_alias_is_a_condition_on_keys() -> None:
    alias = "arn:aws:kms:eu-west-1:210987654321:alias/outputs"
    step = _training(ResourceConfig={"VolumeKmsKeyId": "alias/volumes"}, OutputDataConfig={"KmsKeyId": alias})
    found = _statements(_policies(step))
    assert "UseKeys" not in found
    keys = {found[name]["Resource"][0]: found[name]["Condition"] for name in ("UseKeysByAlias", "UseKeysByAlias1")}
    assert keys == {
        "arn:aws:kms:eu-west-1:123456789012:key/*": {
            "ForAnyValue:StringEquals": {"kms:ResourceAliases": ["alias/volumes"]}
        },
        "arn:aws:kms:eu-west-1:210987654321:key/*": {
            "ForAnyValue:StringEquals": {"kms:ResourceAliases": ["alias/outputs"]}
        },
    }
    assert found["LendKeysByAlias"]["Condition"]["Bool"] == {"kms:GrantIsForAWSResource": "true"}


@pytest.mark.parametrize(
    ("region", "partition", "service"),
    [
        ("us-gov-west-1", "aws-us-gov", "sagemaker.amazonaws.com"),
        ("cn-north-1", "aws-cn", "sagemaker.amazonaws.com.cn"),
    ],
)
def test_every_name_is_of_the_regions_partition(region: str, partition: str, service: str) -> None:
    role = f"arn:{partition}:iam::123456789012:role/jobs"
    target = SageMaker(role=role, bucket="lab", prefix="team/flowers", region=region, output_key="alias/outputs")
    image = f"123456789012.dkr.ecr.{region}.amazonaws.com/millrace/data:1"
    found = _policies(
        _processing(AppSpecification={"ImageUri": image, "ContainerArguments": ["--endpoint"]}, RoleArn=role),
        target=target,
    )
    names = re.findall(r"arn:([a-z-]+):", json.dumps(found.documents))
    assert set(names) == {partition}
    assert found.documents["trust"]["Statement"][0]["Principal"] == {"Service": service}


def test_steps_under_a_condition_count() -> None:
    gate = {"Name": "gate", "Type": "Condition", "Arguments": {"IfSteps": [_training()], "ElseSteps": []}}
    assert "RunTraining" in _statements(_policies(gate))


def test_an_endpoint_by_its_name() -> None:
    asking = _processing(AppSpecification={"ImageUri": "millrace/serve:0.1.0", "ContainerArguments": ["--endpoint"]})
    endpoint = {"Name": "deploy-endpoint", "Type": "Endpoint", "Arguments": {"EndpointName": "flowers"}}
    found = _statements(_policies(asking, endpoint))
    arn = "arn:aws:sagemaker:eu-west-1:123456789012:endpoint/flowers"
    assert found["AskEndpoint"]["Resource"] == [arn]
    assert arn in found["RunEndpoint"]["Resource"]
    assert "ScaleEndpoint" in found


def test_alarms_of_a_rollout_may_be_looked_at() -> None:
    alarms = {"AutoRollbackConfiguration": {"Alarms": [{"AlarmName": "errors"}, {"AlarmName": "slow"}]}}
    endpoint = {
        "Name": "deploy-endpoint",
        "Type": "Endpoint",
        "Arguments": {"EndpointName": "flowers", "DeploymentConfig": alarms},
    }
    policies = _policies(endpoint)
    arns = [f"arn:aws:cloudwatch:eu-west-1:123456789012:alarm:{name}" for name in ("errors", "slow")]
    for document in ("execution", "submitter"):
        watch = _statements(policies, document)["WatchRollout"]
        assert (watch["Action"], watch["Resource"]) == (["cloudwatch:DescribeAlarms"], arns)
    assert "WatchRollout" not in _statements(_policies(_processing()))


def test_what_single_commands_ask_for_is_apart() -> None:
    register = {"Name": "register", "Type": "RegisterModel", "Arguments": {"ModelPackageGroupName": "digits"}}
    found = _statements(_policies(_processing(), register), "submitter")
    assert found["DoctorLooksAtRoles"]["Resource"] == [_ROLE]
    assert found["DoctorLooksAtImages"]["Resource"] == ["arn:aws:ecr:eu-west-1:123456789012:repository/millrace/data"]
    assert "sagemaker:UpdateEndpointWeightsAndCapacities" in found["EndpointChanges"]["Action"]
    assert "sagemaker:CreateModel" in found["EndpointConfigs"]["Action"]
    group = "arn:aws:sagemaker:eu-west-1:123456789012:model-package-group/digits"
    assert group in found["EndpointVersions"]["Resource"]
    assert not {"EndpointChanges", "ScaleEndpoint"} & _statements(_policies(_processing()), "submitter").keys()


def test_definitions_are_stored_with_the_key_of_outputs() -> None:
    target = _TARGET.model_copy(update={"output_key": "1234abcd"})
    found = _statements(_policies(_processing(), target=target), "submitter")
    assert found["EncryptDefinitions"]["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert found["EncryptDefinitions"]["Resource"] == ["arn:aws:kms:eu-west-1:123456789012:key/1234abcd"]
    assert "EncryptDefinitions" not in _statements(_policies(_processing()), "submitter")


def test_who_may_take_the_roles() -> None:
    found = _policies(_processing()).documents
    for name, service in (("trust", "sagemaker.amazonaws.com"), ("scheduler_trust", "scheduler.amazonaws.com")):
        statement = found[name]["Statement"][0]
        assert statement["Principal"] == {"Service": service}
        assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": "123456789012"}}


def test_the_submitter_may_hand_on_that_role_alone() -> None:
    found = _statements(_policies(_processing()), "submitter")
    assert found["HandOnRole"]["Resource"] == [_ROLE]
    assert found["HandOnRole"]["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert "arn:aws:sagemaker:eu-west-1:123456789012:pipeline/digits" in found["RunPipeline"]["Resource"]


def test_what_is_not_known_yet_is_named() -> None:
    found = _policies(_processing(), target=SageMaker())
    assert [note.split()[0] for note in found.notes] == ["ACCOUNT", "BUCKET"]
    assert "arn:aws:iam::ACCOUNT:role/ROLE" in json.dumps(found.documents)


def test_every_action_is_an_operation_of_its_service() -> None:
    everything = _policies(
        _processing(AppSpecification={"ImageUri": "millrace/serve:0.1.0", "ContainerArguments": ["--endpoint"]}),
        _training(ResourceConfig={"VolumeKmsKeyId": "1234abcd"}, VpcConfig={}, Tags=[]),
        *({"Name": kind, "Type": kind, "Arguments": {}} for kind in ("Tuning", "Transform", "Model", "RegisterModel")),
        *({"Name": kind, "Type": kind, "Arguments": {}} for kind in ("EndpointConfig", "Endpoint")),
        PipelineExperimentConfig={"ExperimentName": "digits"},
    )
    session = botocore.session.get_session()
    only_permissions = {
        "iam:PassRole", "kms:GenerateDataKey*", "s3:ListBucket", "sagemaker:InvokeEndpoint",
        "servicequotas:ListServiceQuotas",
        "ecr:BatchCheckLayerAvailability", "ecr:GetAuthorizationToken", "ec2:CreateNetworkInterfacePermission",
    }  # fmt: skip
    for action in set(_actions(everything)) - only_permissions:
        service, _, name = action.partition(":")
        session.get_service_model(service).operation_model(name)  # an error for an unknown one


@pytest.mark.parametrize("document", ["execution", "submitter", "scheduler"])
def test_nothing_is_allowed_everywhere_but_what_has_no_resources(document: str) -> None:
    found = _statements(_policies(_processing(), _training(), target=_TARGET), document)
    everywhere = {name for name, statement in found.items() if statement["Resource"] == ["*"]}
    assert everywhere <= {"LogInToImages", "WriteFigures", "DoctorLooksAtQuotas"}
    for statement in found.values():
        assert not any(re.fullmatch(r"[a-z-]+:\*", action) for action in statement["Action"])
