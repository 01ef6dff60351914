"""Settings that no service would take are refused where they are made, once and with their path."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from millrace.errors import explain_validation
from millrace.targets.aws_names import partition_of
from millrace.targets.sagemaker import SageMaker


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"bucket": "a..b"}, "target.bucket: "),
        ({"bucket": "team-"}, "target.bucket: "),
        ({"volume_key": "a key"}, "target.volume_key: "),
        ({"output_key": ""}, "target.output_key: "),
        ({"tags": {"aws:team": "a"}}, "target.tags: aws:team: such keys are AWS's own"),
        ({"tags": {"a,b": "a"}}, "target.tags.a,b"),
        ({"tags": {"team": "a;b"}}, "target.tags.team: "),
        ({"tags": {"team": "x" * 257}}, "at most 256 characters"),
        ({"network": {"subnets": ["subnet 1"], "security_groups": ["sg-1"]}}, "target.network.subnets.0: "),
        ({"network": {"subnets": ["subnet-1"], "security_groups": ["sg_1"]}}, "target.network.security_groups.0: "),
        ({"job": {"environment": {"AWS_SECRET_ACCESS_KEY": "hush"}}}, "environment: AWS_SECRET_ACCESS_KEY: "),
        ({"tasks": {"train": {"environment": {"AWS_SESSION_TOKEN": "hush"}}}}, "target.tasks.train.environment: "),
        ({"training": {"max_wait_minutes": 30}}, "target.training: max_wait_minutes=30: only spot"),
    ],
)
def test_it_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        SageMaker.model_validate(settings)
    message = explain_validation(refused.value, SageMaker, prefix="target")
    assert told in message
    assert "hush" not in message


@pytest.mark.parametrize(
    "settings",
    [
        {"bucket": "team.vision-2"},
        {"tags": {"kosten stelle/ü": "", "a:b": "x@y"}},
        {"volume_key": "arn:aws-us-gov:kms:us-gov-west-1:123456789012:alias/volumes"},
        {"job": {"environment": {"AWS_DEFAULT_REGION": "eu-west-1"}}},
        {"training": {"spot": True, "max_wait_minutes": 30}},
    ],
)
def test_it_is_taken(settings: dict[str, Any]) -> None:
    SageMaker.model_validate(settings)


def test_partitions() -> None:
    regions = ("eu-central-1", "us-gov-east-1", "cn-northwest-1")
    assert [partition_of(region) for region in regions] == ["aws", "aws-us-gov", "aws-cn"]
