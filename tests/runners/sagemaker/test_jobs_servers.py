"""Servers of models in real containers."""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from millrace.errors import TaskFailedError, UnsupportedError
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.servers import open_server
from millrace.runners.sagemaker.transform import transform
from tests.runners.sagemaker.jobs import BUCKET, IMAGE, put

pytestmark = pytest.mark.docker

SERVE = """
    import http.server, json, os, pathlib, signal, sys
    assert sys.argv[1:] == ["serve"], sys.argv
    if os.environ.get("BROKEN"):
        sys.exit("the model does not load: " + os.environ["BROKEN"])
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(503 if os.environ.get("SICK") else 200)
            self.end_headers()
        def do_POST(self):
            asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
            root = pathlib.Path("/opt/ml/model")
            files = {str(f.relative_to(root)): f.read_text() for f in sorted(root.rglob("*")) if f.is_file()}
            known = sorted(name for name in os.environ if name.startswith("AWS_"))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"asked": asked, "model": files, "known": known}).encode())
    server = http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Answer)
    def gone(*_):
        print("ended in order", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, gone)
    print("listening", flush=True)
    server.serve_forever()
"""


@pytest.fixture(scope="module")
def image(docker_engine: Any) -> Iterator[str]:
    """An image that serves."""
    if not docker_engine.images.list(IMAGE):
        docker_engine.images.pull(IMAGE)
    container = docker_engine.containers.create(IMAGE)
    entrypoint = json.dumps(["python", "-u", "-c", textwrap.dedent(SERVE)])
    container.commit("millrace-test-serve", "1", changes=f"ENTRYPOINT {entrypoint}")
    container.remove(force=True)
    yield "millrace-test-serve:1"
    docker_engine.images.remove("millrace-test-serve:1", force=True)


def ask(url: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.post(f"{url}/invocations", content=text, timeout=10).raise_for_status().json()
    return found


def packed(place: Place, key: str, **files: str) -> str:
    """A model.tar.gz in the store."""
    spool = io.BytesIO()
    with tarfile.open(fileobj=spool, mode="w:gz") as made:
        for name, text in files.items():
            entry = tarfile.TarInfo(name.replace("_", "/"))
            entry.size = len(text)
            made.addfile(entry, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("alias")
        link.type, link.linkname = tarfile.SYMTYPE, next(iter(files))
        made.addfile(link)
    return put(place, key, spool.getvalue())


def test_a_model_is_unpacked_and_answers_on_all_instances(place: Place, image: str) -> None:
    uri = packed(place, "served/model.tar.gz", weights="w", deep_er="d")
    container = {"Image": image, "ModelDataUrl": uri, "Environment": {"AWS_OWN": "1"}}
    with open_server(place, "packed", container, 2) as server:
        assert len(set(server.urls)) == 2
        for url in server.urls:
            assert url.startswith("http://127.0.0.1:")
            answer = ask(url, "hello")
            assert answer["asked"] == "hello"
            assert answer["model"] == {"alias": "w", "deep/er": "d", "weights": "w"}
            assert {"AWS_OWN", "AWS_REGION", "AWS_ENDPOINT_URL"} <= set(answer["known"])
        logs, url = server.logs, server.url
    assert [log.read_text().splitlines()[-1] for log in logs] == ["ended in order", "ended in order"]
    with pytest.raises(httpx.TransportError):
        ask(url, "gone?")


def test_an_isolated_server_of_plain_files_answers(place: Place, image: str) -> None:
    put(place, "plain/1/saved_model.pb", "m")
    source = {"S3DataSource": {"S3Uri": f"s3://{BUCKET}/plain/", "S3DataType": "S3Prefix", "CompressionType": "None"}}
    with open_server(place, "plain", {"Image": image, "ModelDataSource": source}, isolated=True) as server:
        answer = ask(server.url, "x")
    assert answer["model"] == {"1/saved_model.pb": "m"}
    assert answer["known"] == ["AWS_DEFAULT_REGION", "AWS_REGION"]


def test_a_transform_job_takes_no_plain_files(place: Place) -> None:
    put(place, "plain/1/saved_model.pb", "m")
    put(place, "asked/a", "1")
    source = {"S3DataSource": {"S3Uri": f"s3://{BUCKET}/plain/", "S3DataType": "S3Prefix", "CompressionType": "None"}}
    request = {
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/asked/"}}
        },
        "TransformOutput": {"S3OutputPath": f"s3://{BUCKET}/answers/"},
        "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
    }
    ended = transform(place, "plain", request, {"Image": "never-pulled:1", "ModelDataSource": source})
    assert (ended.state, ended.properties["TransformJobStatus"]) == ("Failed", "Failed")
    assert ended.reason.startswith("ValidationException: the model has a ModelDataSource, which batch transform")


def fails(place: Place, name: str, container: dict[str, Any], reason: str, timeout: float = 60) -> None:
    errors = (TaskFailedError, UnsupportedError)
    with pytest.raises(errors, match=reason), open_server(place, name, container, timeout=timeout):
        pass


def test_a_server_that_ends_or_is_sick_is_told_with_its_log(place: Place, image: str) -> None:
    broken = {"Image": image, "Environment": {"BROKEN": "no weights"}}
    fails(place, "broken", broken, r"(?s)ended with exit code 1 before .*does not load: no weights")
    sick = {"Image": image, "Environment": {"SICK": "1"}}
    began = time.monotonic()
    fails(place, "sick", sick, r"(?s)did not answer /ping with 200 within 6 s.*503", timeout=6)
    assert time.monotonic() - began < 40


def test_models_that_are_not_there_or_not_theirs(place: Place, image: str) -> None:
    for uri, reason in (
        (f"s3://{BUCKET}/absent.tar.gz", "there is no model data at"),
        (put(place, "text.tar.gz", "no archive"), "is no tar.gz archive"),
        (packed(place, "evil.tar.gz", **{"..": "x"}), "a file outside of its folder"),
    ):
        fails(place, "wrong", {"Image": image, "ModelDataUrl": uri}, reason)
    fails(place, "many", {"Image": image, "Mode": "MultiModel"}, "MultiModel is not possible")


def test_an_exception_ends_it(place: Place, image: str) -> None:
    def use() -> None:
        with open_server(place, "raises", {"Image": image}) as server:
            assert ask(server.url, "x")["model"] == {}
            raise KeyError("mine")

    with pytest.raises(KeyError):
        use()
