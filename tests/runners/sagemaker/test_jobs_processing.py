"""Processing jobs in real containers."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from millrace.errors import TaskFailedError, UnsupportedError
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.processing import run_processing
from tests.runners.sagemaker.jobs import BUCKET, got, got_json, keys, left, processing, put, taken

pytestmark = pytest.mark.docker

TELL = """
    import json, os, pathlib
    host = json.load(open("/opt/ml/config/resourceconfig.json"))["current_host"]
    root = pathlib.Path("/opt/ml/processing/input")
    found = {str(file.relative_to(root)): file.read_text() for file in sorted(root.rglob("*")) if file.is_file()}
    pathlib.Path(f"/opt/ml/processing/output/told/{host}.json").write_text(json.dumps(found))
"""


def told(place: Place, *inputs: dict[str, Any], hosts: int = 1) -> list[dict[str, str]]:
    """What each host found."""
    request = processing(TELL, hosts, ProcessingInputs=list(inputs), ProcessingOutputConfig={"Outputs": [left("told")]})
    ended = run_processing(place, "tell", request)
    assert ended.state == "Completed", ended.reason
    return [got_json(place, f"out/told/algo-{number}.json") for number in range(1, hosts + 1)]


def test_objects_are_found_by_prefix(place: Place) -> None:
    for key in ("days/mon/a.txt", "days/mon/deep/b.txt", "days/monday.txt", "days/tue/c.txt", "days/mon/"):
        put(place, f"prefix/{key}", key)
    base = f"s3://{BUCKET}/prefix"
    [found] = told(
        place,
        taken("folder", f"{base}/days/mon/"),
        taken("start", f"{base}/days/mon"),
        taken("middle", f"{base}/days/t"),
        taken("one", f"{base}/days/monday.txt"),
    )
    assert found == {
        "folder/a.txt": "days/mon/a.txt",
        "folder/deep/b.txt": "days/mon/deep/b.txt",
        "start/a.txt": "days/mon/a.txt",
        "start/deep/b.txt": "days/mon/deep/b.txt",
        "start/monday.txt": "days/monday.txt",
        "middle/tue/c.txt": "days/tue/c.txt",
        "one/monday.txt": "days/monday.txt",
    }


def test_a_manifest_names_objects_and_they_are_dealt_out(place: Place) -> None:
    for number in range(5):
        put(place, f"listed/{number}.txt", str(number))
    manifest = put(
        place, "listing.json", json.dumps([{"prefix": f"s3://{BUCKET}/lis"}, *(f"ted/{n}.txt" for n in (4, 2, 1))])
    )
    first, second = told(
        place,
        taken("all", manifest, "ManifestFile"),
        taken("share", manifest, "ManifestFile", "ShardedByS3Key"),
        taken("plain", f"s3://{BUCKET}/listed/", distribution="ShardedByS3Key"),
        hosts=2,
    )
    everything = {f"all/ted/{n}.txt": str(n) for n in (1, 2, 4)}
    assert first == {
        **everything,
        **{f"share/ted/{n}.txt": str(n) for n in (1, 4)},
        **{f"plain/{n}.txt": str(n) for n in (0, 2, 4)},
    }
    assert second == {**everything, "share/ted/2.txt": "2", **{f"plain/{n}.txt": str(n) for n in (1, 3)}}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (taken("x", f"s3://{BUCKET}/nothing/here"), 'No S3 objects found under S3 URL "s3://data/nothing/here"'),
        (taken("x", "s3://absent-bucket/"), "No S3 objects found"),
        (taken("x", f"s3://{BUCKET}/bad.json", "ManifestFile"), "is no manifest"),
        (taken("x", f"s3://{BUCKET}/dangling.json", "ManifestFile"), f"s3://{BUCKET}/gone, which the manifest"),
        (taken("x", f"s3://{BUCKET}/absent.json", "ManifestFile"), "absent.json is not there"),
        (taken("x", f"s3://{BUCKET}/few/", distribution="ShardedByS3Key"), "over 2 hosts and has 1 object:"),
        (taken("x", f"s3://{BUCKET}/clash/"), "clash/a is an object and a folder of others"),
        (taken("x", "file:///etc"), "is no S3 URI"),
        (
            {"InputName": "x", "S3Input": {**taken("x", f"s3://{BUCKET}/few/")["S3Input"], "LocalPath": "/data"}},
            "must begin with /opt/ml/processing/",
        ),
    ],
)
def test_the_service_would_refuse_these_inputs(place: Place, given: dict[str, Any], reason: str) -> None:
    put(place, "bad.json", '{"prefix": "s3://data/"}')
    put(place, "dangling.json", json.dumps([{"prefix": f"s3://{BUCKET}/"}, "gone"]))
    put(place, "few/one")
    put(place, "clash/a")
    put(place, "clash/a/b")
    ended = run_processing(place, "refused", processing("print(1)", 2, ProcessingInputs=[given]))
    assert ended.state == "Failed"
    assert reason in ended.reason
    assert ended.properties["FailureReason"] == ended.reason


def test_hosts_talk_to_each_other_by_name(place: Place) -> None:
    script = """
        import json, socket, time, urllib.request, os
        known = json.load(open("/opt/ml/config/resourceconfig.json"))
        assert known["hosts"] == ["algo-1", "algo-2"] and known["network_interface_name"] == "eth0", known
        assert os.path.isdir("/sys/class/net/eth0") and socket.gethostname() == known["current_host"]
        if known["current_host"] == "algo-1":
            with socket.create_server(("0.0.0.0", 7777)) as server:
                other, address = server.accept()
                print("heard", other.recv(100).decode())
        else:
            for attempt in range(100):
                try:
                    with socket.create_connection(("algo-1", 7777), timeout=5) as peer:
                        peer.sendall(b"from " + socket.gethostname().encode())
                    break
                except OSError:
                    time.sleep(0.1)
    """
    lines: list[tuple[str, str]] = []
    ended = run_processing(place, "talk", processing(script, 2), watch=lambda host, line: lines.append((host, line)))
    assert ended.state == "Completed", ended.reason
    assert lines == [("algo-1", "heard from algo-2")]
    assert [log.read_text() for log in ended.logs] == ["heard from algo-2\n", ""]
    assert any("2 x ml.m5.large" in note for note in ended.notes)


def test_outputs_of_all_hosts_are_uploaded_but_no_links(place: Place) -> None:
    script = """
        import json, os
        host = json.load(open("/opt/ml/config/resourceconfig.json"))["current_host"]
        os.chdir("/opt/ml/processing/output/made")
        os.makedirs("deep/" + host)
        open(f"deep/{host}/x.txt", "w").write(host)
        open("big-" + host, "wb").write(b"0123456789abcdef" * (1 << 20) + b"end")
        os.symlink("big-" + host, "link-" + host)
        os.symlink("deep", "folder-link")
        os.link("big-" + host, "hard-" + host)
    """
    request = processing(script, 2, ProcessingOutputConfig={"Outputs": [left("made"), left("empty")]})
    ended = run_processing(place, "outputs", request)
    assert ended.state == "Completed", ended.reason
    names = ["big-algo-1", "big-algo-2", "deep/algo-1/x.txt", "deep/algo-2/x.txt", "hard-algo-1", "hard-algo-2"]
    assert keys(place, "out/made/") == names
    assert keys(place, "out/empty") == []
    big = got(place, "out/made/hard-algo-2")
    assert len(big) == (16 << 20) + 3
    assert big.endswith(b"end")
    assert "/opt/ml/processing/output/made/link-algo-1 is a symbolic link: the service uploads none" in ended.notes
    found = ended.properties["ProcessingOutputConfig"]["Outputs"]["made"]["S3Output"]
    assert found["S3Uri"] == f"s3://{BUCKET}/out/made"


def test_files_of_one_name_and_different_contents_fail_the_job(place: Place) -> None:
    script = """
        import json, pathlib
        host = json.load(open("/opt/ml/config/resourceconfig.json"))["current_host"]
        made = pathlib.Path("/opt/ml/processing/output/made")
        (made / "schema.json").write_text("the same")
        (made / f"part-{host}.txt").write_text(host)
        (made / "deep").mkdir()
        (made / "deep" / "rejects.txt").write_text("of the first" if host == "algo-1" else "of the rest")
        (made / "large").write_bytes((b"1" if host == "algo-2" else b"0") * (2 << 20))
    """
    request = processing(script, 3, ProcessingOutputConfig={"Outputs": [left("made")]})
    ended = run_processing(place, "clashes", request)
    assert ended.state == ended.properties["ProcessingJobStatus"] == "Failed"
    assert ended.reason == ended.properties["FailureReason"]
    assert ended.reason.startswith(
        f"s3://{BUCKET}/out/made/deep/rejects.txt was written with different contents by the outputs made of algo-1, "
        "made of algo-2, made of algo-3 (and 1 more such objects): the service keeps the last one"
    )


def test_files_of_one_name_and_equal_contents_are_fine(place: Place) -> None:
    script = """
        import pathlib
        made = pathlib.Path("/opt/ml/processing/output/same")
        (made / "schema.json").write_text("the same")
        (made / "large").write_bytes(b"0" * (2 << 20))
    """
    request = processing(script, 2, ProcessingOutputConfig={"Outputs": [left("same")]})
    ended = run_processing(place, "agrees", request)
    assert ended.state == "Completed", ended.reason
    assert keys(place, "out/same/") == ["large", "schema.json"]


def test_the_job_finds_its_request_and_the_store(place: Place) -> None:
    put(place, "hello", "from the store")
    script = """
        import json, os, pathlib, urllib.request
        job = json.load(open("/opt/ml/config/processingjobconfig.json"))
        known = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "OWN"))}
        hello = urllib.request.urlopen(known["AWS_ENDPOINT_URL"] + "/data/hello").read().decode()
        told = pathlib.Path("/opt/ml/processing/output/told/all.json")
        told.write_text(json.dumps({"job": job, "known": known, "hello": hello}))
        pathlib.Path("/opt/ml/output/message").write_text("well done")
    """
    request = processing(
        script, Environment={"OWN": "1"}, ProcessingOutputConfig={"Outputs": [left("told", "Continuous")]}
    )
    ended = run_processing(place, "asks-store", request)
    assert ended.state == "Completed", (ended.reason, ended.logs[0].read_text())
    found = got_json(place, "out/told/all.json")
    assert found["hello"] == "from the store"
    assert found["job"]["ProcessingJobName"] == "asks-store"
    assert found["job"]["ProcessingJobArn"] == "arn:aws:sagemaker:us-east-1:000000000000:processing-job/asks-store"
    assert {"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "OWN"} <= set(found["known"])
    assert ended.properties["ExitMessage"] == "well done"


def test_an_isolated_job_reaches_its_peers_and_nothing_else(place: Place) -> None:
    put(place, "isolated/x", "data")
    host, _, port = place.environment["AWS_ENDPOINT_URL"].removeprefix("http://").rpartition(":")
    script = f"""
        import os, socket, time
        assert not [name for name in os.environ if name.startswith("AWS_") and "REGION" not in name]
        assert open("/opt/ml/processing/input/x/x").read() == "data"
        for attempt in range(50):
            try:
                socket.gethostbyname("algo-1"), socket.gethostbyname("algo-2")
                break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit("no peers")
        time.sleep(3)
        for target in (("{host}", {port}), ("1.1.1.1", 80)):
            try:
                with socket.create_connection(target, timeout=1) as made:
                    made.sendall(b"GET /data/isolated/x HTTP/1.0\\r\\n\\r\\n")
                    assert not made.recv(100), f"{{target}} answered"
            except OSError as error:
                print(target, error)
    """
    request = processing(
        script,
        2,
        ProcessingInputs=[taken("x", f"s3://{BUCKET}/isolated/")],
        NetworkConfig={"EnableNetworkIsolation": True},
    )
    ended = run_processing(place, "isolated", request)
    assert ended.state == "Completed", (ended.reason, [log.read_text() for log in ended.logs])


def test_the_first_failure_ends_the_job_and_is_its_reason(place: Place) -> None:
    script = """
        import json, pathlib, signal, sys, time
        host = json.load(open("/opt/ml/config/resourceconfig.json"))["current_host"]
        pathlib.Path("/opt/ml/processing/output/soon/partial").write_text(host)
        pathlib.Path("/opt/ml/processing/output/late/partial").write_text(host)
        if host == "algo-2":
            time.sleep(3)
            pathlib.Path("/opt/ml/output/message").write_text("no more rows: ä")
            sys.exit(7)
        if host == "algo-1":
            sys.exit(0)
        def gone(*_):
            print("told to end")
            sys.exit(3)
        signal.signal(signal.SIGTERM, gone)
        time.sleep(100)
    """
    request = processing(
        script, 3, ProcessingOutputConfig={"Outputs": [left("soon", "Continuous"), left("late", "EndOfJob")]}
    )
    began = time.monotonic()
    ended = run_processing(place, "fails", request)
    assert (ended.state, ended.reason) == ("Failed", "AlgorithmError: no more rows: ä, exit code: 7 (algo-2)")
    assert time.monotonic() - began < 30
    assert ended.logs[2].read_text() == "told to end\n"
    assert keys(place, "out/soon/") == ["partial"]
    assert keys(place, "out/late/") == []


def test_it_is_stopped_at_its_time_limit_and_on_request(place: Place) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); time.sleep(100)"
    late = run_processing(place, "late", processing(script, StoppingCondition={"MaxRuntimeInSeconds": 1}))
    assert (late.state, late.reason) == ("Stopped", "it ran longer than MaxRuntimeInSeconds, 1 s")
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    stopped = run_processing(place, "stopped", processing(script, 2), stop=stop)
    assert stopped.state == "Stopped"
    assert stopped.properties["ProcessingJobStatus"] == "Stopped"


def test_a_program_that_is_not_there_and_a_message_that_is_no_text(place: Place) -> None:
    request = processing("")
    request["AppSpecification"]["ContainerEntrypoint"] = ["/no/such/program"]
    ended = run_processing(place, "absent-program", request)
    assert ended.reason == "AlgorithmError: see the log, exit code: 128"
    assert "no such file" in ended.logs[0].read_text()
    binary = processing("open('/opt/ml/output/message', 'wb').write(bytes([255, 254]) * 20)")
    assert run_processing(place, "binary", binary).reason == "ClientError: /opt/ml/output/message is not UTF-8"


def test_the_image_keeps_its_own_command(place: Place) -> None:
    request = processing("")
    del request["AppSpecification"]["ContainerEntrypoint"]
    ended = run_processing(place, "own-command", request)  # python3 without a terminal reads nothing and ends
    assert ended.state == "Completed", ended.reason
    request["AppSpecification"]["ContainerArguments"] = ["python", "-c", "exit(4)"]
    assert run_processing(place, "own-arguments", request).reason.endswith("exit code: 4")


def test_a_job_that_may_be_any_user_can_write(place: Place, docker_engine: Any) -> None:
    put(place, "any/x", "data")
    tag = "millrace-test-user:1"
    container = docker_engine.containers.create("python:3.11-slim-bookworm")
    try:
        container.commit("millrace-test-user", "1", changes="USER 12345:12345")
        script = """
            import os
            assert os.getuid() == 12345
            for folder in ("processing/input/x", "processing/output/told", "output", "config"):
                open(f"/opt/ml/{folder}/mine", "w").write("1")
            open("/opt/ml/processing/input/x/x", "a").write("more")
        """
        request = processing(
            script,
            ProcessingInputs=[taken("x", f"s3://{BUCKET}/any/")],
            ProcessingOutputConfig={"Outputs": [left("told")]},
        )
        request["AppSpecification"]["ImageUri"] = tag
        ended = run_processing(place, "any-user", request)
        assert ended.state == "Completed", (ended.reason, ended.logs[0].read_text())
    finally:
        container.remove(force=True)
        docker_engine.images.remove(tag, force=True)


def test_what_can_not_be_rehearsed_is_refused(place: Place) -> None:
    piped = taken("x", f"s3://{BUCKET}/x")
    piped["S3Input"]["S3InputMode"] = "Pipe"
    with pytest.raises(UnsupportedError, match=r"ProcessingInputs\[0\].S3Input.S3InputMode: Pipe"):
        run_processing(place, "piped", processing("", ProcessingInputs=[piped]))


def test_a_stopped_rehearsal_ends_its_jobs(place: Place) -> None:
    threading.Timer(2, place.engine.stop).start()
    with pytest.raises(TaskFailedError, match="the rehearsal was stopped"):
        run_processing(place, "killed", processing("import time; time.sleep(100)", 2))


def test_secrets_are_not_written(place: Place) -> None:
    run_processing(place, "quiet", processing("print('x')"))
    secret = place.environment["AWS_SECRET_ACCESS_KEY"]
    assert secret
    for file in place.directory.rglob("*"):
        assert file.is_dir() or secret.encode() not in file.read_bytes()
