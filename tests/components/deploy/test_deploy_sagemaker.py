"""An endpoint of SageMaker is asked through InvokeEndpoint, scaled, accepted, or rolled back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import numpy as np
import pytest

from millrace.components.deploy.app import create_app
from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.errors import TaskFailedError
from millrace.runtime.execute import attempt
from millrace.runtime.limits import Limits
from millrace.runtime.models import Predictor, load_predictor
from millrace.runtime.schemas import ImageRecords, ModelCard
from millrace.runtime.task import GivenArtifact, TaskRequest, TaskResult
from millrace.targets.sagemaker import EndpointWork
from millrace.testing import write_records
from tests.components.deploy.conftest import serving
from tests.pictures import picture_records
from tests.services.sagemaker.conftest import ROLE, aws, aws_server
from tests.services.sagemaker.fake import FakeAws

pytestmark = pytest.mark.slow
__all__ = ["aws", "aws_server"]

SCHEMA = ImageRecords(height=6, width=8, channels=1, encoding="png", resize="stretch", classes=("a", "b"))
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/millrace/serve:1"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    folder = tmp_path_factory.mktemp("model")
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Input((6, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()]
    made = keras.Sequential([*layers, keras.layers.Dense(2, activation="softmax")])
    made.save(folder / "model.keras")
    size = (folder / "model.keras").stat().st_size
    card = ModelCard(format="keras", name="linear", records=SCHEMA, parameters=98, bytes=size)
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return load_predictor(model)


@pytest.fixture(scope="module")
def records(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records about which the model is always right."""
    images = np.random.default_rng(1).integers(0, 256, (12, 6, 8, 1), np.uint8)
    labels = predictor.predict(images).argmax(axis=1)
    made = picture_records(images, labels, SCHEMA)
    return write_records(tmp_path_factory.mktemp("records"), SCHEMA, {"test": [made]})


@pytest.fixture(scope="module")
def server(predictor: Predictor) -> Iterator[str]:
    with serving(create_app(lambda: predictor.predict, predictor.card, name="m", limits=Limits())) as url:
        yield url


@pytest.fixture(scope="module")
def wrong_server(predictor: Predictor) -> Iterator[str]:
    """It answers the opposite."""
    with serving(
        create_app(lambda: lambda images: 1 - predictor.predict(images), predictor.card, name="m", limits=Limits())
    ) as url:
        yield url


def asked_by_invoke(aws: FakeAws, urls: dict[str, str]) -> list[str]:
    """Let endpoints answer as servers do, by the configuration that they have; gives the kinds of bodies that came."""
    kinds: list[str] = []
    starts = {b"\x93NUMPY": "application/x-npy", b"{": "application/json", b"\x89PNG": "image/png"}

    def invoked(name: str, body: bytes) -> bytes:
        kind = next((kind for start, kind in starts.items() if body.startswith(start)), "text/csv")
        kinds.append(kind)
        config = aws.endpoints.get(name, {}).get("config", "first")
        answer = httpx.post(
            f"{urls[config]}/invocations", content=body, headers={"Content-Type": kind}, trust_env=False
        )
        return answer.raise_for_status().content

    aws.invoked = invoked
    return kinds


def sagemaker(name: str = "sagemaker") -> Any:
    return boto3.client(name)  # pyright: ignore[reportCallIssue, reportArgumentType, reportUnknownMemberType]  # of any name


def configured(*names: str) -> None:
    api = sagemaker()
    for name in names:
        api.create_model(ModelName=name, ExecutionRoleArn=ROLE, PrimaryContainer={"Image": IMAGE})
        variant = {"VariantName": "main", "ModelName": name, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
        api.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])


def run(
    directory: Path, model: Path, records: Path, config: str, rollout_seconds: int = 0, **parameters: Any
) -> TaskResult:
    """Run the component as the step's container does."""
    work = EndpointWork(
        name="digits", config=config, variant="main", region="us-east-1", cpus=2, rollout_seconds=rollout_seconds
    )
    request = TaskRequest(
        name="deploy",
        component=deploy.spec.entry,
        parameters=DeployParameters.model_validate({"name": "digits", **parameters}).model_dump(mode="json"),
        inputs={"model": (GivenArtifact(path=model),), "records": (GivenArtifact(path=records),)},
        endpoint=work,
    )
    request.write(directory)
    return attempt(directory, request)


def tags() -> dict[str, str]:
    api = sagemaker()
    arn = api.describe_endpoint(EndpointName="digits")["EndpointArn"]
    return {tag["Key"]: tag["Value"] for tag in api.list_tags(ResourceArn=arn)["Tags"]}


def test_it_is_asked_scaled_and_accepted(aws: FakeAws, model: Path, records: Path, server: str, tmp_path: Path) -> None:
    configured("first")
    sagemaker().create_endpoint(EndpointName="digits", EndpointConfigName="first")
    kinds = asked_by_invoke(aws, {"first": server})
    scaled = {"min_replicas": 1, "max_replicas": 3, "metric": "concurrency", "target": 4}
    result = run(tmp_path / "1", model, records, "first", scaling=scaled)
    assert result.metrics["agreement"] == 1
    assert result.metrics["accuracy"] == 1
    assert result.metrics["latency_ms"] > 0
    assert set(kinds) == {"application/x-npy", "application/json", "text/csv", "image/png"}
    told = json.loads((tmp_path / "1" / result.outputs["endpoint"].path / "endpoint.json").read_text())
    assert told["url"] == "https://runtime.sagemaker.us-east-1.amazonaws.com/endpoints/digits/invocations"
    assert tags()["millrace:accepted"] == "first"
    target = sagemaker("application-autoscaling").describe_scalable_targets(ServiceNamespace="sagemaker")
    assert target["ScalableTargets"][0]["MaxCapacity"] == 3
    before = len([name for name in aws.changes() if "Invoke" not in name])
    run(tmp_path / "2", model, records, "first", scaling=scaled)
    assert len([name for name in aws.changes() if "Invoke" not in name]) == before, "a second time changes nothing"


def test_wrong_answers_bring_the_configuration_before_back(
    aws: FakeAws, model: Path, records: Path, server: str, wrong_server: str, tmp_path: Path
) -> None:
    configured("first", "second")
    api = sagemaker()
    api.create_endpoint(EndpointName="digits", EndpointConfigName="first")
    asked_by_invoke(aws, {"first": server, "second": wrong_server})
    run(tmp_path / "1", model, records, "first")
    api.update_endpoint(EndpointName="digits", EndpointConfigName="second")
    with pytest.raises(TaskFailedError, match=r"differ from the model's own(.|\n)*'first' serves again"):
        run(tmp_path / "2", model, records, "second")
    assert api.describe_endpoint(EndpointName="digits")["EndpointConfigName"] == "first"
    assert tags()["millrace:accepted"] == "first"
    with pytest.raises(TaskFailedError, match="serves the configuration 'first', not 'second'"):
        run(tmp_path / "3", model, records, "second")


def test_limits_of_the_canary(aws: FakeAws, model: Path, records: Path, server: str, tmp_path: Path) -> None:
    configured("first", "second")
    api = sagemaker()
    api.create_endpoint(EndpointName="digits", EndpointConfigName="first")
    asked_by_invoke(aws, {"first": server, "second": server})
    run(tmp_path / "1", model, records, "first")
    api.update_endpoint(EndpointName="digits", EndpointConfigName="second")
    with pytest.raises(TaskFailedError, match=r"canary\.max_latency_ms\)\nthe earlier configuration 'first' serves"):
        run(tmp_path / "2", model, records, "second", canary={"max_latency_ms": 0.001})
    api.update_endpoint(EndpointName="digits", EndpointConfigName="second")
    result = run(tmp_path / "3", model, records, "second", canary={"max_accuracy_drop": 0})
    assert result.metrics["accuracy_before"] == 1
    assert (tags()["millrace:accepted"], tags()["millrace:previous"]) == ("second", "first")


def test_less_accuracy_than_allowed(aws: FakeAws, model: Path, records: Path, server: str, tmp_path: Path) -> None:
    configured("first", "second")
    api = sagemaker()
    api.create_endpoint(EndpointName="digits", EndpointConfigName="first")
    asked_by_invoke(aws, {"first": server, "second": server})
    run(tmp_path / "1", model, records, "first")
    arn = api.describe_endpoint(EndpointName="digits")["EndpointArn"]
    # as if the first one had been better than possible
    api.add_tags(ResourceArn=arn, Tags=[{"Key": "millrace:accuracy", "Value": "1.5"}])
    api.update_endpoint(EndpointName="digits", EndpointConfigName="second")
    with pytest.raises(TaskFailedError, match=r"right about 1\.000 .* before was about 1\.500.*max_accuracy_drop"):
        run(tmp_path / "2", model, records, "second", canary={"max_accuracy_drop": 0.1})


def test_the_first_model_has_nothing_to_go_back_to(
    aws: FakeAws, model: Path, records: Path, wrong_server: str, tmp_path: Path
) -> None:
    configured("first")
    sagemaker().create_endpoint(EndpointName="digits", EndpointConfigName="first")
    asked_by_invoke(aws, {"first": wrong_server})
    with pytest.raises(TaskFailedError, match="no earlier configuration to go back to: the endpoint stays"):
        run(tmp_path, model, records, "first")
    assert "millrace:accepted" not in tags()


def test_an_update_is_waited_for_as_long_as_a_rollout_takes(
    aws: FakeAws, model: Path, records: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.components.deploy.sagemaker._POLL_SECONDS", 0.05)
    configured("first", "second")
    api = sagemaker()
    api.create_endpoint(EndpointName="digits", EndpointConfigName="first")
    asked_by_invoke(aws, {"first": server, "second": server})
    run(tmp_path / "1", model, records, "first")
    aws.update_looks = 3
    api.update_endpoint(EndpointName="digits", EndpointConfigName="second")
    run(tmp_path / "2", model, records, "second", rollout_seconds=60, startup_timeout_seconds=0.01)
    assert tags()["millrace:accepted"] == "second"


@pytest.mark.parametrize(
    ("looks", "message", "served"),
    [
        (2, "still Updating after 0.01 s\nthe earlier configuration 'first' serves again", "first"),
        (9, "'first' shall serve again, but: the endpoint 'digits' is Updating: wait until that is done", "second"),
    ],
)
def test_an_update_that_takes_too_long_is_taken_back_where_that_is_possible(
    aws: FakeAws, model: Path, records: Path, server: str, tmp_path: Path, looks: int, message: str, served: str
) -> None:
    configured("first", "second")
    api = sagemaker()
    api.create_endpoint(EndpointName="digits", EndpointConfigName="first")
    asked_by_invoke(aws, {"first": server, "second": server})
    run(tmp_path / "1", model, records, "first")
    aws.update_looks = looks
    api.update_endpoint(EndpointName="digits", EndpointConfigName="second")
    aws.update_looks = 0
    with pytest.raises(TaskFailedError, match=message):
        run(tmp_path / "2", model, records, "second", startup_timeout_seconds=0.01)
    assert api.describe_endpoint(EndpointName="digits")["EndpointConfigName"] == served
    assert tags()["millrace:accepted"] == "first"


def test_no_endpoint(aws: FakeAws, model: Path, records: Path, tmp_path: Path) -> None:
    with pytest.raises(TaskFailedError, match="there is no endpoint 'digits'"):
        run(tmp_path, model, records, "first")
