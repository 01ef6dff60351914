"""Names that AWS gives and takes: what is wrong with one, in words instead of a pattern."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["Arn", "Bucket", "Instance", "Prefix", "Region", "RoleArn", "S3Uri", "partition_of"]

_MACHINE = re.compile(r"ml\.[a-z0-9-]+\.[a-z0-9-]+")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+", re.ASCII)
_BUCKET = re.compile(r"[a-z0-9]([a-z0-9-]*(\.[a-z0-9-]+)*[a-z0-9])?")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d")
_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*")
_S3 = "s3://"
_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "us-isof-": "aws-iso-f",
    "eu-isoe-": "aws-iso-e",
    "eusc-": "aws-eusc",
}


def partition_of(region: str) -> str:
    """The partition of AWS that a region is in: the second part of its ARNs."""
    return next((partition for start, partition in _PARTITIONS.items() if region.startswith(start)), "aws")


def _instance(given: str) -> str:
    if _MACHINE.fullmatch(given):
        return given
    near = f"ml.{given.lower().removeprefix('ml.')}"
    hint = f"did you mean {near}?" if _MACHINE.fullmatch(near) else "ml.m5.xlarge for one"
    raise ValueError(f"a machine type of SageMaker's is ml.FAMILY.SIZE: {hint}")


def _role(given: str) -> str:
    if _ROLE.fullmatch(given):
        return given
    if ":assumed-role/" in given:
        raise ValueError("this is a session of a role: give the role itself, arn:aws:iam::ACCOUNT:role/NAME")
    raise ValueError(
        "the ARN of an IAM role is needed, with the account's 12 digits: arn:aws:iam::123456789012:role/NAME"
    )


def _bucket(given: str) -> str:
    if given.startswith(_S3):
        name, _, below = given.removeprefix(_S3).strip("/").partition("/")
        also = f", and target.prefix={below} for what is below it" if below else ""
        raise ValueError(f"a bucket's name goes without s3://: give {name}{also}")
    if not 3 <= len(given) <= 63:
        raise ValueError(f"a bucket's name has 3 to 63 characters, this has {len(given)}")
    if given != given.lower():
        raise ValueError(f"a bucket's name has no upper case: {given.lower()}, if that is its name")
    if not _BUCKET.fullmatch(given):
        raise ValueError(
            "a bucket's name has lower-case letters, digits, `-` and single dots, a letter or a digit at each end: "
            "my-bucket for one"
        )
    return given


def _region(given: str) -> str:
    if _REGION.fullmatch(given):
        return given
    if _REGION.fullmatch(given[:-1]):
        raise ValueError(f"this is a zone: its region is {given[:-1]}")
    raise ValueError("this is no region of AWS: us-east-1 or eu-central-1 for one")


def _prefix(given: str) -> str:
    if given.startswith(_S3):
        raise ValueError("only what comes below the bucket, which is target.bucket: team/flowers for one")
    if given.strip("/") != given and _PREFIX.fullmatch(given.strip("/")):
        raise ValueError(f"a prefix has no slash at its ends: give {given.strip('/')}")
    if not _PREFIX.fullmatch(given):
        raise ValueError("a prefix has letters, digits and !_.*'()- between single slashes: team/flowers for one")
    return given


def _s3_uri(given: str) -> str:
    if not re.fullmatch(r"s3://[^/]+(/.*)?", given):
        raise ValueError("a place in S3 is s3://BUCKET/PREFIX")
    return given


Instance = Annotated[str, AfterValidator(_instance)]
"""A machine type, `ml.m5.xlarge` for one."""
Arn = Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:[^:]+:[^:]*:[^:]*:.+$")]
RoleArn = Annotated[str, AfterValidator(_role)]
"""`arn:aws:iam::123456789012:role/NAME`, for one."""
Bucket = Annotated[str, AfterValidator(_bucket)]
Region = Annotated[str, AfterValidator(_region)]
Prefix = Annotated[str, AfterValidator(_prefix)]
"""What stands below a bucket: `team/flowers` for one."""
S3Uri = Annotated[str, AfterValidator(_s3_uri)]
