"""Training jobs in real containers."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from typing import Any

import pytest

from millrace.errors import UnsupportedError
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.training import run_training
from tests.runners.sagemaker.jobs import BUCKET, IMAGE, channel, got, keys, put, python, training

pytestmark = pytest.mark.docker

TELL = """
    import json, os, pathlib
    config = {file.stem: json.loads(file.read_text()) for file in pathlib.Path("/opt/ml/input/config").iterdir()}
    host = config["resourceconfig"]["current_host"]
    root = pathlib.Path("/opt/ml/input/data")
    found = {str(file.relative_to(root)): file.read_text() for file in sorted(root.rglob("*")) if file.is_file()}
    told = {"config": config, "found": found, "environment": dict(os.environ)}
    pathlib.Path(f"/opt/ml/output/data/{host}.json").write_text(json.dumps(told))
    pathlib.Path("/opt/ml/model/weights").write_text(host)
    pathlib.Path(f"/opt/ml/model/of-{host}").write_text(host)
"""
CHECKPOINTED = """
    import os, pathlib, signal, sys, time
    folder = pathlib.Path("/opt/ml/checkpoints/deep")
    folder.mkdir(exist_ok=True)
    def gone(*_):
        (folder / "last").write_text("kept")
        sys.exit(0)
    signal.signal(signal.SIGTERM, gone)
    begun = sorted(file.name for file in folder.iterdir())
    print("begun with", begun, flush=True)
    (folder / f"run-{len(begun)}").write_text("x")
    if not begun:
        time.sleep(100)
    print("loss=0.25", flush=True)
    pathlib.Path("/opt/ml/model/done").write_text("done")
"""


def archive(place: Place, key: str) -> dict[str, str]:
    """Files of a tar.gz object; links by what they lead to."""
    with tarfile.open(fileobj=io.BytesIO(got(place, key)), mode="r:gz") as opened:
        files = {member: opened.extractfile(member) if member.isfile() else None for member in opened}
        return {
            member.name: member.linkname if file is None else file.read().decode()
            for member, file in files.items()
            if not member.isdir()
        }


def test_hosts_find_their_channels_and_configuration(place: Place) -> None:
    for number in range(3):
        put(place, f"train/part-{number}", str(number))
    put(place, "validation/rows", "v")
    request = training(
        TELL,
        2,
        HyperParameters={"epochs": "3", "rate": "0.1"},
        Environment={"OWN": "yes"},
        InputDataConfig=[
            {**channel("train", f"s3://{BUCKET}/train", "ShardedByS3Key"), "InputMode": "FastFile"},
            {**channel("validation", f"s3://{BUCKET}/validation/"), "ContentType": "text/csv"},
        ],
    )
    ended = run_training(place, "channels", request)
    assert ended.state == "Completed", (ended.reason, ended.logs[0].read_text())
    with tarfile.open(fileobj=io.BytesIO(got(place, "models/channels/output/output.tar.gz"))) as opened:
        assert sorted(opened.getnames()) == ["algo-1.json", "algo-2.json"]
        opened.extractall(place.directory / "jobs", filter="data")
    first, second = (json.loads((place.directory / "jobs" / f"algo-{n}.json").read_text()) for n in (1, 2))
    assert first["found"] == {"train/part-0": "0", "train/part-2": "2", "validation/rows": "v"}
    assert second["found"] == {"train/part-1": "1", "validation/rows": "v"}
    assert first["config"]["hyperparameters"] == {"epochs": "3", "rate": "0.1"}
    assert first["config"]["resourceconfig"] == {
        "current_host": "algo-1",
        "current_instance_type": "ml.m5.large",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1", "algo-2"],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "ml.m5.large",
                "hosts": ["algo-1", "algo-2"],
            }
        ],
        "network_interface_name": "eth0",
    }
    assert first["config"]["inputdataconfig"] == {
        "train": {
            "TrainingInputMode": "FastFile",
            "S3DistributionType": "ShardedByS3Key",
            "RecordWrapperType": "None",
        },
        "validation": {
            "ContentType": "text/csv",
            "TrainingInputMode": "File",
            "S3DistributionType": "FullyReplicated",
            "RecordWrapperType": "None",
        },
    }
    known = second["environment"]
    assert (known["TRAINING_JOB_NAME"], known["OWN"]) == ("channels", "yes")
    assert known["TRAINING_JOB_ARN"] == "arn:aws:sagemaker:us-east-1:000000000000:training-job/channels"
    uri = f"s3://{BUCKET}/models/channels/output/model.tar.gz"
    assert ended.properties["ModelArtifacts"] == {"S3ModelArtifacts": uri}
    assert archive(place, "models/channels/output/model.tar.gz") == {
        "of-algo-1": "algo-1",
        "of-algo-2": "algo-2",
        "weights": "algo-1",
    }
    assert "more than one host left weights: the first one's is kept" in ended.notes


def test_groups_of_machines_take_their_own_channels(place: Place) -> None:
    put(place, "grouped/x", "x")
    request = training(
        """
        import json, os
        known = json.load(open("/opt/ml/input/config/resourceconfig.json"))
        print(known["current_group_name"], known["current_instance_type"], os.listdir("/opt/ml/input/data"))
        """,
        InputDataConfig=[channel("both", f"s3://{BUCKET}/grouped/"), channel("one", f"s3://{BUCKET}/grouped/")],
        ResourceConfig={
            "VolumeSizeInGB": 1,
            "InstanceGroups": [
                {"InstanceGroupName": "workers", "InstanceType": "ml.c5.large", "InstanceCount": 1},
                {"InstanceGroupName": "data", "InstanceType": "ml.m5.large", "InstanceCount": 1},
            ],
        },
    )
    request["InputDataConfig"][1]["DataSource"]["S3DataSource"]["InstanceGroupNames"] = ["data"]
    ended = run_training(place, "groups", request)
    assert ended.logs[0].read_text() == "workers ml.c5.large ['both']\n"
    assert ended.logs[1].read_text().startswith("data ml.m5.large ['")
    assert sorted(ended.logs[1].read_text().split("[")[1].strip("]\n").split(", ")) == ["'both'", "'one'"]


def test_the_image_answers_train(place: Place, docker_engine: Any) -> None:
    container = docker_engine.containers.create(IMAGE)
    tag = "millrace-test-train:1"
    try:
        container.commit(
            "millrace-test-train", "1", changes='ENTRYPOINT ["python", "-c", "import sys; print(sys.argv)"]'
        )
        request = training("")
        plain: dict[str, Any] = {"TrainingImage": tag, "TrainingInputMode": "File"}
        request["AlgorithmSpecification"] = plain
        assert run_training(place, "plain", request).logs[0].read_text() == "['-c', 'train']\n"
        request["AlgorithmSpecification"] = {**plain, "ContainerArguments": ["learn", "fast"]}
        assert run_training(place, "other", request).logs[0].read_text() == "['-c', 'learn', 'fast']\n"
    finally:
        container.remove(force=True)
        docker_engine.images.remove(tag, force=True)


def test_metrics_are_read_from_lines_while_it_runs(place: Place) -> None:
    script = """
        import time
        for epoch in range(3):
            print(f"epoch={epoch} loss={1 / (epoch + 1):.2f} accuracy=nonsense", flush=True)
            time.sleep(0.5)
        print("loss=1e-3", end="")
    """
    request = training(script)
    request["AlgorithmSpecification"]["MetricDefinitions"] = [
        {"Name": "loss", "Regex": r"loss=(\S+)"},
        {"Name": "accuracy", "Regex": r"accuracy=(\S+)"},
        {"Name": "never", "Regex": "never=([0-9]+)"},
    ]
    seen: list[tuple[str, float]] = []
    ended = run_training(place, "metrics", request, watch=lambda host, line: seen.append((line, time.monotonic())))
    assert [line.split()[0] for line, _ in seen] == ["epoch=0", "epoch=1", "epoch=2", "loss=1e-3"]
    assert seen[2][1] - seen[0][1] > 0.7, "lines were told late"
    final = ended.properties["FinalMetricDataList"]
    assert set(final) == {"loss"}
    assert (final["loss"]["MetricName"], final["loss"]["Value"]) == ("loss", 0.001)


def test_a_spot_interruption_is_gone_on_from_the_checkpoints(place: Place) -> None:
    request = training(
        CHECKPOINTED,
        EnableManagedSpotTraining=True,
        StoppingCondition={"MaxRuntimeInSeconds": 100, "MaxWaitTimeInSeconds": 200},
        CheckpointConfig={"S3Uri": f"s3://{BUCKET}/spot"},
    )
    ended = run_training(place, "spot", request, interrupt_after=5)
    assert ended.state == "Completed", ended.reason
    assert ended.logs[0].read_text().splitlines() == [
        "begun with []",
        "begun with ['last', 'run-0']",
        "loss=0.25",
    ]
    assert keys(place, "spot/") == ["deep/last", "deep/run-0", "deep/run-2"]
    assert archive(place, "models/spot/output/model.tar.gz") == {"done": "done"}
    assert "interrupted after 5 s as spot capacity is, and started again" in ended.notes


def test_without_managed_spot_nothing_is_interrupted(place: Place) -> None:
    ended = run_training(place, "steady", training("print('whole')"), interrupt_after=0.1)
    assert ended.logs[0].read_text() == "whole\n"
    assert "it asks for no managed spot training, so it was not interrupted" in ended.notes


def test_an_early_stop_keeps_checkpoints_and_the_model(place: Place) -> None:
    stop = threading.Event()
    script = """
        import pathlib, signal, sys, time
        def gone(*_):
            pathlib.Path("/opt/ml/model/half").write_text("half")
            pathlib.Path("/opt/ml/checkpoints/last").write_text("1")
            sys.exit(0)
        signal.signal(signal.SIGTERM, gone)
        print("ready", flush=True)
        time.sleep(100)
    """

    def watch(host: str, line: str) -> None:
        assert line == "ready"
        stop.set()

    request = training(script, CheckpointConfig={"S3Uri": f"s3://{BUCKET}/stopped/"})
    ended = run_training(place, "early", request, watch=watch, stop=stop)
    assert (ended.state, ended.properties["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert keys(place, "stopped/") == ["last"]
    assert archive(place, "models/early/output/model.tar.gz") == {"half": "half"}


def test_its_time_limit_ends_it_even_when_it_does_not_listen(place: Place) -> None:
    script = "import time\nwhile True: time.sleep(1)"  # the first process of a container is deaf to SIGTERM
    request = training(script, StoppingCondition={"MaxRuntimeInSeconds": 1})
    began = time.monotonic()
    ended = run_training(place, "deaf", request)
    assert (ended.state, ended.properties["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")
    assert place.grace <= time.monotonic() - began < place.grace + 15


def test_a_failure_is_told_by_the_file_and_leaves_no_model(place: Place) -> None:
    script = """
        import pathlib, sys
        pathlib.Path("/opt/ml/output/failure").write_text("labels are missing " + "x" * 2000)
        pathlib.Path("/opt/ml/model/bad").write_text("bad")
        pathlib.Path("/opt/ml/output/data/notes").write_text("why")
        sys.exit(3)
    """
    ended = run_training(place, "fails", training(script))
    assert ended.state == "Failed"
    assert ended.reason == "AlgorithmError: labels are missing " + "x" * 1005 + ", exit code: 3"
    assert keys(place, "models/fails/") == ["output/output.tar.gz"]
    assert "ModelArtifacts" not in ended.properties


def test_the_first_host_to_fail_gives_the_reason(place: Place) -> None:
    script = """
        import json, pathlib, sys, time
        host = json.load(open("/opt/ml/input/config/resourceconfig.json"))["current_host"]
        if host == "algo-1":
            time.sleep(1.5)
        pathlib.Path("/opt/ml/output/failure").write_text("of " + host)
        if host == "algo-1":
            time.sleep(100)
        time.sleep(1)
        sys.exit(2)
    """
    ended = run_training(place, "first", training(script, 2))
    assert ended.reason == "AlgorithmError: of algo-2, exit code: 2 (algo-2)"


def test_outputs_without_compression_and_boards(place: Place) -> None:
    script = """
        import os, pathlib
        pathlib.Path("/opt/ml/model/1").mkdir()
        pathlib.Path("/opt/ml/model/1/saved_model.pb").write_text("m")
        pathlib.Path("/opt/ml/output/data/report.txt").write_text("r")
        os.makedirs("/opt/ml/output/tensorboard/train")
        pathlib.Path("/opt/ml/output/tensorboard/train/events").write_text("e")
    """
    request = training(script, TensorBoardOutputConfig={"S3OutputPath": f"s3://{BUCKET}/boards"})
    request["OutputDataConfig"]["CompressionType"] = "NONE"
    ended = run_training(place, "flat", request)
    assert ended.state == "Completed", ended.reason
    assert keys(place, "models/flat/") == ["output/data/report.txt", "output/model/1/saved_model.pb"]
    assert keys(place, "boards/") == ["flat/tensorboard-output/train/events"]
    assert ended.properties["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{BUCKET}/models/flat/output/model/"


def test_links_of_a_model_stay_in_its_archive(place: Place) -> None:
    script = """
        import os
        os.chdir("/opt/ml/model")
        open("a", "w").write("a")
        os.link("a", "b")
        os.symlink("a", "c")
    """
    run_training(place, "links", training(script))
    found = archive(place, "models/links/output/model.tar.gz")
    assert found in ({"a": "a", "b": "a", "c": "a"}, {"b": "a", "a": "b", "c": "a"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"HyperParameters": {"epochs": 3, "rate": "1"}}, "HyperParameters must be texts, and these are not: epochs"),
        (
            {"InputDataConfig": [channel("train", f"s3://{BUCKET}/none/")]},
            "ValidationException: the channel 'train': No S3 objects found",
        ),
    ],
)
def test_the_service_would_refuse_these(place: Place, change: dict[str, Any], reason: str) -> None:
    ended = run_training(place, "refused", training("", **change))
    assert ended.state == "Failed"
    assert reason in ended.reason


def test_a_regex_without_a_group_is_refused(place: Place) -> None:
    request = training("")
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "loss", "Regex": "loss=.*"}]
    assert "has no group for its value" in run_training(place, "regex", request).reason


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({**channel("x", "s3://b/x"), "InputMode": "Pipe"}, r"InputDataConfig\[0\].InputMode: Pipe"),
        ({**channel("x", "s3://b/x"), "CompressionType": "Gzip"}, "takes Gzip with InputMode Pipe only"),
        (
            channel("x", "s3://b/x", S3DataType="AugmentedManifestFile"),
            r"S3DataType: AugmentedManifestFile, and possible are S3Prefix, ManifestFile",
        ),
        ({"ChannelName": "x", "DataSource": {"FileSystemDataSource": {}}}, "only S3DataSource is possible"),
    ],
)
def test_what_can_not_be_rehearsed_is_refused(place: Place, given: dict[str, Any], problem: str) -> None:
    with pytest.raises(UnsupportedError, match=problem):
        run_training(place, "refused", training("", InputDataConfig=[given]))


def test_what_does_nothing_is_noted(place: Place) -> None:
    put(place, "noted/x")
    given = {**channel("x", f"s3://{BUCKET}/noted/"), "ShuffleConfig": {"Seed": 1}}
    request = training("", InputDataConfig=[given], ProfilerConfig={"DisableProfiler": True})
    request["AlgorithmSpecification"]["ContainerEntrypoint"] = python("print(1)")
    notes = run_training(place, "noted", request).notes
    assert "InputDataConfig[0].ShuffleConfig: nothing is shuffled here" in notes
    assert "ProfilerConfig: nothing is profiled here" in notes
