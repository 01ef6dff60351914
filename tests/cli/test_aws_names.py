"""What is wrong with a name of AWS's is said in words."""

from __future__ import annotations

import pytest

from millrace.errors import ConfigError
from millrace.settings import validated
from millrace.targets.sagemaker import SageMaker

ROLE = "arn:aws:iam::123456789012:role"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"job": {"instance": "m5.large"}}, "job.instance: a machine type of SageMaker's is ml.FAMILY.SIZE: did you "),
        ({"job": {"instance": "m5.large"}}, "did you mean ml.m5.large? (given: 'm5.large')"),
        ({"job": {"instance": "ml.M5.large"}}, "did you mean ml.m5.large?"),
        ({"serving": {"instance": "large"}}, "ml.m5.xlarge for one"),
        ({"bucket": "s3://lab"}, "bucket: a bucket's name goes without s3://: give lab (given"),
        ({"bucket": "s3://lab/a/b/"}, "give lab, and target.prefix=a/b for what is below it"),
        ({"bucket": "Lab"}, "a bucket's name has no upper case: lab, if"),
        ({"bucket": "ab"}, "3 to 63 characters, this has 2"),
        ({"bucket": "lab_1"}, "lower-case letters, digits, `-`"),
        ({"bucket": "lab-"}, "a letter or a digit at each end"),
        ({"bucket": "lab..a"}, "single dots"),
        ({"role": "jobs"}, "role: the ARN of an IAM role is needed"),
        ({"role": "arn:aws:iam::12345:role/jobs"}, "the account's 12 digits"),
        ({"role": "arn:aws:iam::123456789012:user/jobs"}, "the ARN of an IAM role is needed"),
        ({"role": "arn:aws:sts::123456789012:assumed-role/jobs/me"}, "this is a session of a role"),
        ({"schedule_role": "arn:aws:s3:::lab"}, "schedule_role: the ARN of an IAM role is needed"),
        ({"region": "us-east-1a"}, "region: this is a zone: its region is us-east-1 (given"),
        ({"region": "europe"}, "this is no region of AWS: us-east-1 or eu-central-1 for one"),
        ({"prefix": "/team/"}, "prefix: a prefix has no slash at its ends: give team (given"),
        ({"prefix": "s3://lab/team"}, "only what comes below the bucket, which is target.bucket"),
        ({"prefix": "a b"}, "letters, digits and !_.*'()- between single slashes"),
        ({"serving": {"capture": {"uri": "lab/x"}}}, "serving.capture.uri: a place in S3 is s3://BUCKET/PREFIX"),
    ],
)
def test_mistaken(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validated(SageMaker, given)
    assert told in str(refused.value)
    assert "pattern" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"region": "eusc-de-east-1"},
        {"region": "us-gov-west-1"},
        {"region": "us-isob-east-1"},
        {"role": f"{ROLE}/jobs"},
        {"role": "arn:aws-us-gov:iam::123456789012:role/service-role/a+b=c,d.e@f_g-h"},
        {"bucket": "my.lab-1"},
        {"bucket": "a1b"},
        {"prefix": "team/flowers!_.*'()-"},
        {"job": {"instance": "ml.p4d.24xlarge"}},
        {"job": {"instance": "ml.u-6tb1.metal-x"}},
    ],
)
def test_taken(given: dict[str, object]) -> None:
    assert validated(SageMaker, given).model_dump(exclude_unset=True) == given
