"""Definitions are executed in real containers by the service's rules."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from millrace.errors import ConfigError, UnsupportedError
from millrace.runners.record import RunState
from millrace.runners.sagemaker.record import Rehearsal
from tests.conftest import Bucket
from tests.runners.sagemaker import definitions as made
from tests.runners.sagemaker.definitions import get, metric
from tests.runners.sagemaker.rehearsed import Rehearsed, states

pytestmark = pytest.mark.docker


def ask(url: str, body: str, headers: Mapping[str, str] | None = None) -> tuple[int, str, Mapping[str, str]]:
    return ask_bytes(url, body.encode(), headers or {})


def ask_bytes(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, str, Mapping[str, str]]:
    """Status, body and headers of an answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=30)
    try:
        connection.request("POST", parts.path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())
    finally:
        connection.close()


_CHANGES = """
    import json, os, urllib.request
    def call(action, **values):
        headers = {
            "X-Amz-Target": "SageMaker." + action,
            "Content-Type": "application/x-amz-json-1.1",
            "Authorization": "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/sagemaker/aws4_request, "
            "SignedHeaders=host, Signature=x",
        }
        url = os.environ["AWS_ENDPOINT_URL"]
        return json.load(urllib.request.urlopen(urllib.request.Request(url, json.dumps(values).encode(), headers)))
    def asked():
        url = os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] + "/endpoints/stand-in/invocations"
        answer = urllib.request.urlopen(urllib.request.Request(url, b"1"))
        print(answer.headers["x-Amzn-Invoked-Production-Variant"])
    asked()
    new = {"ModelName": os.environ["MODEL"], "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}
    call("CreateEndpointConfig", EndpointConfigName="second-config", ProductionVariants=[
        {"VariantName": "second", "InitialVariantWeight": 1, **new},
        {"VariantName": "other", "InitialVariantWeight": 0, **new},
    ])
    call("UpdateEndpoint", EndpointName="stand-in", EndpointConfigName="second-config")
    told = call("DescribeEndpoint", EndpointName="stand-in")
    print(told["EndpointStatus"], told["EndpointConfigName"])
    asked()
    weights = [{"VariantName": "second", "DesiredWeight": 0}, {"VariantName": "other", "DesiredWeight": 1}]
    call("UpdateEndpointWeightsAndCapacities", EndpointName="stand-in", DesiredWeightsAndCapacities=weights)
    asked()
"""


class Asks:
    """Looks at a rehearsal, and asks its endpoint once while it goes on."""

    def __init__(self, *bodies: str) -> None:
        self.bodies = bodies
        self.answers: list[tuple[int, str, Mapping[str, str]]] = []

    def __call__(self, record: Rehearsal) -> None:
        if record.endpoints and not self.answers:
            self.answers = [ask(record.endpoints["stand-in"], body) for body in self.bodies]


def test_everything_at_once(rehearsed: Rehearsed, tmp_path: Path) -> None:
    asks = Asks("3 4", "who", "boom")
    record = rehearsed(made.whole(), watch=asks)
    assert record.state is RunState.SUCCEEDED, record.reason
    assert states(record) == {
        **dict.fromkeys(["prepare", "enough", "tune", "train", "model", "config", "endpoint"], "succeeded"),
        "ask": "succeeded",
        "transform": "succeeded",
        "too-few": "skipped",
    }
    steps = record.steps
    assert steps["prepare"].metrics == {"size": 3}
    trials = steps["tune"].trials
    assert len(trials) == 3
    best = max(trials, key=lambda trial: trial.objective or 0)
    assert best.objective == pytest.approx(float(best.hyperparameters["rate"]), abs=1e-5)
    told = steps["tune"].properties
    assert told["BestTrainingJob"]["TrainingJobName"] == best.name
    assert told["BestTrainingJob"]["FinalHyperParameterTuningJobObjectiveMetric"]["Value"] == best.objective
    assert told["TrainingJobStatusCounters"]["Completed"] == 3
    assert len(steps["tune"].job) <= 32
    assert steps["train"].hosts == len(steps["train"].logs) == 2
    assert steps["train"].metrics["score"] == best.objective
    assert steps["train"].properties["HyperParameters"] == {"rate": best.hyperparameters["rate"]}

    rate = float(best.hyperparameters["rate"])
    (first, body, headers), (_, who, _), (failed, message, _) = asks.answers
    assert first == 200
    assert body == f"{3 * rate:g}\n{4 * rate:g}"
    assert headers["x-Amzn-Invoked-Production-Variant"] == "main"
    assert json.loads(who) == {"rate": rate, "hosts": 2, "kind": ""}
    assert failed == 424
    assert json.loads(message)["OriginalMessage"] == "no idea"
    assert f"answer {2 * rate:g} of main" in steps["ask"].logs[0].read_text()

    folder = tmp_path / "rehearsals" / record.id
    answers = folder / "outputs" / "transform" / "output"
    assert {file.name: file.read_text() for file in answers.iterdir()} == {
        f"part{part}.txt.out": "".join(f"{number * rate:g}\n" for number in range(3)) for part in range(2)
    }
    assert (folder / "outputs" / "train" / "model" / "model.tar.gz").is_file()
    written = json.loads((folder / "rehearsal.json").read_bytes())
    assert written["state"] == "succeeded"
    assert written["steps"]["endpoint"]["outputs"]["address"].endswith("/endpoints/stand-in/invocations")
    with pytest.raises(OSError, match="refused"):
        ask(written["steps"]["endpoint"]["outputs"]["address"], "x")


def test_where_a_condition_does_not_hold_the_message_is_told(rehearsed: Rehearsed) -> None:
    record = rehearsed(made.whole(), size=1)
    assert record.state is RunState.FAILED
    assert record.reason == "too-few: only 1 numbers"
    assert [name for name, state in states(record).items() if state == "skipped"] == [
        *("ask", "config", "endpoint", "model", "train", "transform", "tune")
    ]


def test_after_a_failure_only_what_handles_it_runs(rehearsed: Rehearsed) -> None:
    failing = made.prepare("breaks", "import sys; open('/opt/ml/output/message', 'w').write('on purpose'); sys.exit(3)")
    handler = made.prepare("handles", DependsOn=[{"Step": "breaks", "Trigger": "Failed"}])
    other = made.prepare("idle", DependsOn=[{"Step": "handles", "Trigger": "Failed"}])
    after = made.prepare("after", DependsOn=["breaks"])
    then = made.prepare("then", DependsOn=["handles"])
    record = rehearsed(made.document(failing, handler, other, after, then))
    assert states(record) == {
        "breaks": "failed", "handles": "succeeded", "idle": "skipped", "after": "skipped", "then": "succeeded"
    }  # fmt: skip
    assert record.state is RunState.FAILED
    assert "CompletedWithFailures" in record.reason
    assert record.steps["after"].reason == "breaks failed"


def test_failed_trials_are_told_and_the_others_count(rehearsed: Rehearsed) -> None:
    categories = {"CategoricalParameterRanges": [{"Name": "kind", "Values": ["bad", "good"]}]}
    tuning = made.tune(jobs=9, strategy="Grid", ParameterRanges=categories)
    del tuning["Arguments"]["HyperParameterTuningJobConfig"]["ResourceLimits"]["MaxNumberOfTrainingJobs"]
    record = rehearsed(made.document(made.prepare(), tuning))
    assert record.state is RunState.SUCCEEDED, record.reason
    bad, good = record.steps["tune"].trials
    assert (str(bad.state), str(good.state)) == ("failed", "succeeded")
    assert "the kind is bad" in bad.reason
    told = record.steps["tune"].properties
    assert told["TrainingJobStatusCounters"] == {
        "Completed": 1, "InProgress": 0, "RetryableError": 0, "NonRetryableError": 1, "Stopped": 0
    }  # fmt: skip
    assert [item["TrainingJobStatus"] for item in told["TrainingJobSummaries"]] == ["Completed", "Failed"]


def test_a_job_that_falls_behind_is_stopped_and_a_child_learns_from_its_parent(rehearsed: Rehearsed) -> None:
    ranges = {"ContinuousParameterRanges": [{"Name": "rate", "MinValue": "0.5", "MaxValue": "2"}]}
    first = made.tune(
        "first", jobs=2, parallel=1, TrainingJobEarlyStoppingType="Auto", ParameterRanges=ranges, RandomSeed=2
    )
    first["Arguments"]["TrainingJobDefinition"]["StaticHyperParameters"] = {"epochs": "4", "pause": "0.5"}
    child = made.tune("child", jobs=1, parallel=1)
    child["Arguments"]["WarmStartConfig"] = {
        "WarmStartType": "IdenticalDataAndAlgorithm",
        "ParentHyperParameterTuningJobs": [
            {"HyperParameterTuningJobName": get("Steps.first.HyperParameterTuningJobName")}
        ],
    }
    record = rehearsed(made.document(made.prepare(), first, child))
    assert record.state is RunState.SUCCEEDED, record.reason
    one, two = record.steps["first"].trials
    assert float(two.hyperparameters["rate"]) < float(one.hyperparameters["rate"]), (
        "the seed gives the better one first"
    )
    assert two.reason == "stopped early: worse than the median"
    assert record.steps["first"].properties["TrainingJobStatusCounters"]["Stopped"] == 1
    assert not [note for note in record.notes if "begins without" in note]


def test_variants_share_requests_by_their_weights_and_follow_updates(rehearsed: Rehearsed) -> None:
    text = json.loads(made.document(made.prepare(), made.train(values={"rate": "2"}), *made.served()[:3]))
    variant = text["Steps"][3]["Arguments"]["ProductionVariants"][0]
    text["Steps"][3]["Arguments"]["ProductionVariants"] += [
        {**variant, "VariantName": "other", "InitialVariantWeight": 0}
    ]
    changes = made.prepare("changes", _CHANGES, DependsOn=["endpoint"])
    del changes["Arguments"]["ProcessingOutputConfig"], changes["PropertyFiles"]
    changes["Arguments"]["Environment"] = {"MODEL": get("Steps.model.ModelName")}
    text["Steps"].append(changes)
    seen: list[Any] = []

    def watch(record: Rehearsal) -> None:
        if record.endpoints and not seen:
            url = record.endpoints["stand-in"]
            seen.extend(ask(url, "1")[2]["x-Amzn-Invoked-Production-Variant"] for _ in range(5))
            seen.append(
                ask(url, "1", {"X-Amzn-SageMaker-Target-Variant": "other"})[2]["x-Amzn-Invoked-Production-Variant"]
            )
            seen.append(ask(url, "1", {"X-Amzn-SageMaker-Target-Variant": "third"})[:2])
            seen.append(ask(url.replace("stand-in", "nobody"), "1")[0])

    record = rehearsed(json.dumps(text), watch=watch)
    assert record.state is RunState.SUCCEEDED, record.reason
    assert seen[:6] == [*["main"] * 5, "other"]
    status, message = seen[6]
    assert status == 400
    assert "it has main, other" in message
    assert seen[7] == 400
    log = record.steps["changes"].logs[0].read_text()
    assert log.splitlines() == ["main", "InService second-config", "second", "other"]


def test_a_registered_model_is_served(rehearsed: Rehearsed) -> None:
    container = {
        "Image": made.STAND_IN,
        "ModelDataUrl": get("Steps.train.ModelArtifacts.S3ModelArtifacts"),
        "Environment": {"SIDE": "registered"},
    }
    register = {
        "Name": "register",
        "Type": "RegisterModel",
        "Arguments": {
            "ModelPackageGroupName": "toys",
            "ModelApprovalStatus": "Approved",
            "InferenceSpecification": {
                "Containers": [container],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        },
    }
    served = made.served()[:3]
    served[0]["Arguments"]["PrimaryContainer"] = {"ModelPackageName": get("Steps.register.ModelPackageArn")}
    asks = Asks("who")
    record = rehearsed(made.document(made.prepare(), made.train(), register, *served), watch=asks)
    assert record.state is RunState.SUCCEEDED, record.reason
    assert json.loads(asks.answers[0][1])["SIDE"] == "registered"
    assert ":model-package/toys/" in record.steps["register"].job


def test_a_spot_machine_is_taken_once(rehearsed: Rehearsed) -> None:
    spot: dict[str, Any] = {
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 300, "MaxWaitTimeInSeconds": 600},
        "CheckpointConfig": {"S3Uri": made.join("checkpoints")},
    }
    text = made.document(made.prepare(), made.train(values={"epochs": "3", "pause": "1"}, **spot))
    record = rehearsed(text, settings={"interrupt": {"train": 1.5}})
    assert record.state is RunState.SUCCEEDED, record.reason
    log = "".join(file.read_text() for file in record.steps["train"].logs)
    assert log.count("epoch=0") == 2, log
    with pytest.raises(
        ConfigError, match="no training step 'prepare' on spot machines; those on spot machines are train"
    ):
        rehearsed(text, settings={"interrupt": {"prepare": 1}})


def test_a_store_of_ones_own(rehearsed: Rehearsed, s3: Bucket) -> None:
    s3.client.create_bucket(Bucket=made.BUCKET)
    text = made.document(made.prepare(), made.train(), *made.served()[:4])
    record = rehearsed(text, settings={"endpoint": s3.endpoint})
    assert record.state is RunState.SUCCEEDED, record.reason
    prefix = f"{record.execution}/prepare/data/"
    found = s3.client.list_objects_v2(Bucket=made.BUCKET, Prefix=prefix)["Contents"]
    assert [item["Key"] for item in found] == [f"{prefix}part0.txt", f"{prefix}part1.txt"]
    assert not (record.document.parent / "outputs").exists()


def test_what_can_not_be_rehearsed_is_said_before_anything_starts(rehearsed: Rehearsed, tmp_path: Path) -> None:
    lambda_step = {
        "Name": "call",
        "Type": "Lambda",
        "FunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:x",
        "Arguments": {},
    }
    with pytest.raises(UnsupportedError, match=r"Steps\[1\] \(call\): steps of type Lambda need AWS"):
        rehearsed(made.document(made.prepare(), lambda_step))
    missing = made.prepare()
    missing["Arguments"]["AppSpecification"]["ImageUri"] = "millrace/nothing:0"
    with pytest.raises(
        ConfigError, match=r"millrace/nothing:0 is not on this machine: millrace build images=\[nothing\]"
    ):
        rehearsed(made.document(missing))
    with pytest.raises(ConfigError, match=r"parameters.sise: .*did you mean 'size'"):
        rehearsed(made.document(made.prepare()), sise=2)
    with pytest.raises(ConfigError, match=r"parameters.size: not of type Integer, given 'many'"):
        rehearsed(made.document(made.prepare()), size="many")
    with pytest.raises(ConfigError, match=r"rehearse.cache: not a setting of a rehearsal for SageMaker"):
        rehearsed(made.document(made.prepare()), settings={"cache": True})
    assert list(tmp_path.glob("rehearsals/*")) == []


def test_a_value_that_is_not_there_fails_its_step(rehearsed: Rehearsed) -> None:
    never = {"Name": "never", "Type": "Fail", "Arguments": {"ErrorMessage": "it was decided"}}
    text = made.document(made.prepare(), made.condition(metric("['more']['list'][5]"), 1, then=[never]))
    record = rehearsed(text)
    assert record.state is RunState.FAILED
    assert "[5] is beyond the end, 2 are there" in record.reason
