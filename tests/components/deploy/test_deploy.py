"""The component: a server in a process of its own, checked, stopped or kept, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from millrace.components.deploy.spec import DeployParameters, deploy
from millrace.errors import ConfigError, DataError, TaskFailedError
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import Channel, ImageRecords, ModelCard
from millrace.runtime.task import GivenArtifact, TaskRequest, launch
from millrace.testing import run_component, write_records
from tests.pictures import picture_records

SCHEMA = ImageRecords(height=8, width=8, channels=1, encoding="png", resize="stretch", classes=("a", "b", "c"))


def pictures(count: int, seed: int = 0, channels: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, channels), dtype=np.uint8)


def linear(channels: int) -> Any:
    """A Keras model with random weights: its answers differ from picture to picture."""
    import keras

    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((8, 8, channels)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3, activation="softmax", kernel_initializer="random_normal"),
        ]
    )


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LiteRT model."""
    import tensorflow as tf

    folder = tmp_path_factory.mktemp("model")
    content = tf.lite.TFLiteConverter.from_keras_model(linear(1)).convert()
    (folder / "model.tflite").write_bytes(content)
    card = ModelCard(format="litert", name="linear", records=SCHEMA, parameters=195, bytes=len(content))
    (folder / "model.json").write_text(card.model_dump_json())
    return folder


def write_pictures(folder: Path, images: NDArray[np.uint8], schema: ImageRecords, channel: Channel) -> Path:
    labels = [number % 3 for number in range(len(images))]
    return write_records(folder, schema, {channel: [picture_records(images, labels, schema)]})


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 records of random pictures in the test channel."""
    return write_pictures(tmp_path_factory.mktemp("records"), pictures(40), SCHEMA, "test")


@pytest.fixture
def reaper() -> Iterator[list[int]]:
    """Ends the processes that a test meant to keep."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def servers(model: Path) -> list[psutil.Process]:
    """Server processes for this model."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = process.info["cmdline"] or []
        if "millrace.components.deploy.server" in command and str(model) in command:
            found.append(process)
    return [process for process in found if running(process.pid)]


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


class TestComponent:
    def test_the_endpoint_agrees_with_the_model_and_is_stopped(
        self, model: Path, records: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        ran = run_component(deploy, DeployParameters(check_records=12), tmp_path, model=model, records=records)
        assert ran.metrics["agreement"] == 1.0
        assert ran.metrics["latency_ms"] > 0
        assert ran.metrics["requests_per_second"] > 0
        facts = json.loads((ran.outputs["endpoint"] / "endpoint.json").read_text())
        assert facts == {"url": facts["url"], "pid": None, "model": "model", "running": False}
        assert ran.metadata["endpoint"] == {"url": facts["url"], "running": False}
        assert not servers(model)
        assert len(caplog.records) < 20, "the log tells of the endpoint, not of each request"
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{facts['url']}/ping")

    @pytest.mark.slow
    def test_a_keras_model_of_colour_pictures_with_validation_records_only(self, tmp_path: Path) -> None:
        from millrace.training.export import export

        schema = SCHEMA.model_copy(update={"channels": 3, "encoding": "raw"})
        folders = tmp_path / "model", tmp_path / "records"
        for folder in folders:
            folder.mkdir()
        card = export(linear(3), "linear", schema, folders[0])
        (folders[0] / "model.json").write_text(card.model_dump_json())
        write_pictures(folders[1], pictures(6, channels=3), schema, "validation")
        ran = run_component(deploy, DeployParameters(), tmp_path / "task", model=folders[0], records=folders[1])
        assert ran.metrics["agreement"] == 1.0

    def test_a_kept_endpoint_answers_on_and_is_replaced_by_the_next_run(
        self, model: Path, records: Path, tmp_path: Path, reaper: list[int]
    ) -> None:
        parameters = DeployParameters(keep=True, port=free_port(), name="digits", check_records=4)
        pids = []
        for _ in range(2):
            ran = run_component(deploy, parameters, tmp_path, model=model, records=records)
            facts = json.loads((ran.outputs["endpoint"] / "endpoint.json").read_text())
            pids.append(facts["pid"])
            reaper.append(facts["pid"])
            assert facts["running"] is True
            assert httpx.get(f"{facts['url']}/v2/models/digits/ready").status_code == 200
        assert pids[0] != pids[1]
        assert not running(pids[0])
        os.kill(pids[1], signal.SIGTERM)
        until(lambda: not running(pids[1]))

    def test_a_port_in_use(self, model: Path, records: Path, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 is in use by another process"):
                run_component(deploy, DeployParameters(port=port), tmp_path, model=model, records=records)

    def test_a_model_that_can_not_be_loaded_fails_with_the_servers_last_lines(
        self, model: Path, records: Path, tmp_path: Path
    ) -> None:
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "model.json").write_text((model / "model.json").read_text())
        (broken / "model.tflite").write_bytes(b"not a model")
        with pytest.raises((DataError, TaskFailedError)):
            run_component(deploy, DeployParameters(), tmp_path / "task", model=broken, records=records)
        assert not servers(broken)

    def test_records_of_another_size(self, model: Path, records: Path, tmp_path: Path) -> None:
        other = tmp_path / "model"
        other.mkdir()
        card = ModelCard.model_validate_json((model / "model.json").read_text())
        wider = SCHEMA.model_copy(update={"width": 16})
        (other / "model.json").write_text(card.model_copy(update={"records": wider}).model_dump_json())
        (other / "model.tflite").write_bytes((model / "model.tflite").read_bytes())
        with pytest.raises(DataError, match="takes images of 8 x 16 pixels with 1 channel, the records are 8 x 8"):
            run_component(deploy, DeployParameters(), tmp_path / "task", model=other, records=records)
        assert not servers(other)


class TestKilled:
    @pytest.mark.parametrize("delay", [0.0, 1.5])
    def test_kill_9_of_the_task_leaves_no_server(
        self, model: Path, records: Path, tmp_path: Path, delay: float
    ) -> None:
        request = TaskRequest(
            name="deploy",
            component=deploy.spec.entry,
            parameters=DeployParameters(keep=True, check_records=40, max_delay_ms=1000).model_dump(mode="json"),
            inputs={"model": (GivenArtifact(path=model),), "records": (GivenArtifact(path=records),)},
        )
        request.write(tmp_path)
        task = launch(tmp_path)
        try:
            until(lambda: servers(model), 60)
            time.sleep(delay)
        finally:
            task.kill()
            task.wait()
        until(lambda: not servers(model))


@contextlib.contextmanager
def server(model: Path, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The server as a container starts it."""
    port = free_port()
    command = [sys.executable, "-m", "millrace.components.deploy.server", "--model", str(model), "--port", str(port)]
    process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/ping").status_code == httpx.codes.OK
        return False

    try:
        until(ready, 60)
        yield process, url
    finally:
        process.kill()
        process.communicate()


class TestServer:
    def test_what_was_accepted_is_answered_after_sigterm(self, model: Path) -> None:
        """Requests wait for others for a second when the signal comes: all are answered, none is taken after."""
        with (
            server(model, "--max-delay-ms=1000", "--max-batch-size=64") as (process, url),
            ThreadPoolExecutor(40) as pool,
            httpx.Client(timeout=30) as client,
        ):
            asked = [pool.submit(client.post, f"{url}/invocations", json=one.tolist()) for one in pictures(40)]
            until(lambda: "millrace_waiting_images 40.0" in client.get(f"{url}/metrics").text, 5)
            process.terminate()
            own = load_predictor(model).predict(pictures(40))
            for future, expected in zip(asked, own, strict=True):
                given = future.result().json()["predictions"][0]["probabilities"]
                np.testing.assert_allclose(given, expected, atol=1e-5)
            assert process.wait(30) == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/ping")

    def test_a_stop_under_load_breaks_no_answer_off(self, model: Path) -> None:
        """A client sees whole answers until the server is gone; then its connections fail, never half an answer."""
        broken_off = "peer closed connection without sending complete message body"

        def ask(url: str, seed: int) -> tuple[int, str]:
            good = 0
            with httpx.Client(base_url=url) as client:
                while True:
                    try:
                        response = client.post("/invocations", json=pictures(1, seed).tolist())
                    except httpx.TransportError as error:
                        return good, str(error)
                    assert response.status_code == 200
                    assert len(response.json()["predictions"]) == 1
                    good += 1

        with server(model) as (process, url), ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(ask, url, seed) for seed in range(8)]
            time.sleep(1)
            process.terminate()
            assert process.wait(30) == 0
            for good, error in (client.result(10) for client in clients):
                assert good > 0
                assert broken_off not in error

    def test_a_container_is_told_by_variables(self, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        port = free_port()
        told = {"MODEL_NAME": "digits", "PORT": str(port), "MAX_INSTANCES": "3", "REVISION": "abc"}
        for name, value in told.items():
            monkeypatch.setenv(f"MILLRACE_{name}", value)
        command = [sys.executable, "-P", "-m", "millrace", "serve", "--model-dir", str(model), "--host=0.0.0.0"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/ping").status_code == httpx.codes.OK
            return False

        try:
            until(ready, 60)
            assert httpx.get(f"{url}/v2/models/digits").json()["parameters"]["revision"] == "abc"
            refused = httpx.post(f"{url}/invocations", json=pictures(4).tolist())
            assert (refused.status_code, "3" in refused.text) == (413, True)
            process.terminate()
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.communicate()

    def test_a_wrong_variable_is_refused_as_the_option_is(self, model: Path) -> None:
        command = [sys.executable, "-P", "-m", "millrace", "serve", "--model", str(model)]
        environment = {**os.environ, "MILLRACE_MAX_QUEUE": "many"}
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert ended.returncode == 2
        assert "--max-queue: invalid int value: 'many'" in ended.stderr

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            (["--port=70000"], "port 70000, allowed: 0 to 65535"),
            (["--name=a/b"], "model name 'a/b', allowed: letters"),
            (["--host=256.0.0.1"], "can't listen on 256.0.0.1"),
            (["--max-queue=1"], "max_queue is 1, less than max_instances (256)"),
        ],
    )
    def test_mistakes_on_the_command_line(self, model: Path, options: list[str], told: str) -> None:
        command = [sys.executable, "-m", "millrace.components.deploy.server", "--model", str(model), *options]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
        assert told in ended.stderr

    def test_a_folder_without_a_model(self, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "millrace.components.deploy.server", "--model", str(tmp_path)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert (
            ended.stderr
            == f"error: {tmp_path} is not a model: there is no model.json; give the folder of a Model artifact\n"
        )

    def test_help_has_an_example_and_every_limit(self) -> None:
        command = [sys.executable, "-m", "millrace.components.deploy.server", "--help"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert "example: millrace serve --model" in text
        assert "--max-body-mib" in text
