"""Requests of jobs whose containers are small Python scripts."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from millrace.runners.sagemaker.place import Place

IMAGE = "python:3.11-slim-bookworm"
ROLE = "arn:aws:iam::000000000000:role/job"
BUCKET = "data"


def python(script: str) -> list[str]:
    """The command of a container that runs a script."""
    return ["python", "-u", "-c", textwrap.dedent(script)]


def processing(script: str, hosts: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "AppSpecification": {"ImageUri": IMAGE, "ContainerEntrypoint": python(script)},
        "ProcessingResources": {
            "ClusterConfig": {"InstanceCount": hosts, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10}
        },
        "RoleArn": ROLE,
        **more,
    }


def taken(name: str, uri: str, kind: str = "S3Prefix", distribution: str = "FullyReplicated") -> dict[str, Any]:
    """An input of a processing job."""
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": uri,
            "LocalPath": f"/opt/ml/processing/input/{name}",
            "S3DataType": kind,
            "S3InputMode": "File",
            "S3DataDistributionType": distribution,
        },
    }


def left(name: str, mode: str = "EndOfJob") -> dict[str, Any]:
    """An output of a processing job."""
    return {
        "OutputName": name,
        "S3Output": {
            "S3Uri": f"s3://{BUCKET}/out/{name}",
            "LocalPath": f"/opt/ml/processing/output/{name}",
            "S3UploadMode": mode,
        },
    }


def training(script: str, hosts: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "AlgorithmSpecification": {
            "TrainingImage": IMAGE,
            "TrainingInputMode": "File",
            "ContainerEntrypoint": python(script),
        },
        "RoleArn": ROLE,
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/models"},
        "ResourceConfig": {"InstanceCount": hosts, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 10},
        "StoppingCondition": {"MaxRuntimeInSeconds": 300},
        **more,
    }


def channel(name: str, uri: str, distribution: str = "FullyReplicated", **more: Any) -> dict[str, Any]:
    """An input of a training job."""
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": distribution, **more}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def put(place: Place, key: str, data: bytes | str = b"x") -> str:
    """Put an object into the store; its URI."""
    place.store.bucket(BUCKET)
    place.client.put_object(Bucket=BUCKET, Key=key, Body=data, ACL="public-read")
    return f"s3://{BUCKET}/{key}"


def keys(place: Place, prefix: str) -> list[str]:
    """Names of objects below a prefix."""
    place.store.bucket(BUCKET)
    found = place.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", ())
    return [item["Key"].removeprefix(prefix) for item in found]


def got(place: Place, key: str) -> bytes:
    """An object's bytes."""
    return bytes(place.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def got_json(place: Place, key: str) -> Any:
    return json.loads(got(place, key))
