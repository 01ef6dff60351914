"""Which images SageMaker pulls."""

from __future__ import annotations

import pytest

from millrace.compilers.sagemaker.images import EcrImage, ecr_image, elsewhere, outside_ecr, push_command

ACCOUNT = "123456789012"
DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/data:1.0", EcrImage(ACCOUNT, "us-east-1", "data", "1.0", None)),
        (
            f"{ACCOUNT}.dkr.ecr.eu-west-1.amazonaws.com/team/data@{DIGEST}",
            EcrImage(ACCOUNT, "eu-west-1", "team/data", None, DIGEST),
        ),
        (
            f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/data:1@{DIGEST}",
            EcrImage(ACCOUNT, "cn-north-1", "data", "1", DIGEST),
        ),
        (f"{ACCOUNT}.dkr.ecr-fips.us-gov-west-1.amazonaws.com/d", EcrImage(ACCOUNT, "us-gov-west-1", "d", None, None)),
        ("public.ecr.aws/docker/library/python:3.11", None),
        ("millrace/data:0.1.0", None),
        ("ghcr.io/team/data:1", None),
        (f"{ACCOUNT[1:]}.dkr.ecr.us-east-1.amazonaws.com/data:1", None),
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/", None),
        (f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com.example.org/data:1", None),
        (f"example.org/{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/data:1", None),
    ],
)
def test_what_a_reference_says(reference: str, wanted: EcrImage | None) -> None:
    assert ecr_image(reference) == wanted
    assert outside_ecr([reference]) == ([] if wanted else [reference])


def test_those_in_another_region() -> None:
    near, far = (f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com/data:1" for region in ("us-east-1", "us-east-2"))
    assert elsewhere([near, far, "millrace/data:1"], "us-east-1") == [far]


def test_where_to_push() -> None:
    assert push_command("eu-west-1") == "millrace build push=ACCOUNT.dkr.ecr.eu-west-1.amazonaws.com/millrace/"
    assert push_command("cn-north-1") == "millrace build push=ACCOUNT.dkr.ecr.cn-north-1.amazonaws.com.cn/millrace/"
