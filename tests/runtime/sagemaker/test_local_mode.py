"""The SDK's own local mode runs single jobs with our images: another reading of SageMaker's contract."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.components.train_data import write_picture_records
from tests.conftest import Bucket, needed

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@pytest.fixture
def local(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of local mode, on the test's own bucket."""
    if shutil.which("docker-compose") is None:
        needed("local mode needs docker-compose: apt-get install docker-compose")
    from sagemaker.core.local.local_session import LocalSession

    monkeypatch.setenv("SAGEMAKER_VALIDATE_ROLE", "false")
    session = LocalSession(boto_session=boto3.Session(region_name="us-east-1"), default_bucket=s3.name)
    session.config = {"local": {"container_root": str(tmp_path), "local_code": False}}
    return session.sagemaker_client


@pytest.fixture
def rooted(docker_engine: Any, images: dict[str, str]) -> Iterator[dict[str, str]]:
    """The images as they are pushed for SageMaker: they run as root."""
    made = {}
    try:
        for name in ("data", "train"):
            file = io.BytesIO(f"FROM {images[name]}\nUSER 0\n".encode())
            made[name] = f"millrace-test/{name}:root"
            docker_engine.images.build(fileobj=file, tag=made[name], rm=True)
        yield made
    finally:
        for tag in made.values():  # local mode leaves its containers and its network
            for container in docker_engine.containers.list(all=True, filters={"ancestor": tag}):
                container.remove(force=True)
            docker_engine.images.remove(tag, force=True)
        for network in docker_engine.networks.list(names=["sagemaker-local"]):
            network.remove()


def output(s3: Bucket, port: str) -> dict[str, Any]:
    place = {"S3Uri": s3.uri(f"out/{port}"), "LocalPath": f"/opt/ml/processing/output/{port}"}
    return {"OutputName": port, "AppManaged": False, "S3Output": place | {"S3UploadMode": "EndOfJob"}}


def test_a_processing_job(local: Any, rooted: dict[str, str], s3: Bucket) -> None:
    local.create_processing_job(
        ProcessingJobName="digits-1",
        AppSpecification={
            "ImageUri": rooted["data"],
            "ContainerEntrypoint": ["millrace", "exec"],
            "ContainerArguments": ["digits", "--task", "pictures", "--parameters", '{"limit":', "2}"],
        },
        ProcessingResources={"ClusterConfig": {"InstanceCount": 1, "InstanceType": "local", "VolumeSizeInGB": 1}},
        ProcessingOutputConfig={"Outputs": [output(s3, "dataset")]},
    )
    keys = [found["Key"] for found in s3.client.list_objects_v2(Bucket=s3.name)["Contents"]]
    assert len([key for key in keys if key.startswith("out/dataset/") and key.endswith(".png")]) == 20
    assert len(keys) == 20


def test_a_training_job(local: Any, rooted: dict[str, str], s3: Bucket, tmp_path: Path) -> None:
    records = s3.upload(write_picture_records(tmp_path / "records"), "records")
    source = {"S3DataType": "S3Prefix", "S3Uri": f"{records}/", "S3DataDistributionType": "FullyReplicated"}
    local.create_training_job(
        TrainingJobName="train-1",
        AlgorithmSpecification={"TrainingImage": rooted["train"], "TrainingInputMode": "File"},
        OutputDataConfig={"S3OutputPath": s3.uri("models")},
        ResourceConfig={"InstanceCount": 1, "InstanceType": "local", "VolumeSizeInGB": 1},
        InputDataConfig=[{"ChannelName": "records", "DataSource": {"S3DataSource": source}}],
        HyperParameters={"model": '{"kind":"mlp","units":[16],"dropout":0}', "epochs": "2", "learning_rate": "0.01"},
        Environment={"MILLRACE_COMPONENT": "millrace.components.train.spec:train", "MILLRACE_TASK": "train"},
    )
    stored = local.describe_training_job("train-1")["ModelArtifacts"]["S3ModelArtifacts"]
    key = stored.removeprefix(s3.uri())
    with tarfile.open(fileobj=io.BytesIO(s3.client.get_object(Bucket=s3.name, Key=key)["Body"].read())) as archive:
        names = {name.removeprefix("./") for name in archive.getnames()}
        assert {"model.json", "model.keras"} <= names
    others = key.replace("model.tar.gz", "output.tar.gz")
    with tarfile.open(fileobj=io.BytesIO(s3.client.get_object(Bucket=s3.name, Key=others)["Body"].read())) as archive:
        found = next(name for name in archive.getnames() if name.endswith("metrics/metrics.json"))
        stream = archive.extractfile(found)
        assert stream is not None
        assert json.load(stream)["epochs"] == 2
