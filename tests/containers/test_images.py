"""The images as their users meet them: started, read-only, as any user, and with a model to answer for."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace import __version__
from millrace.components.digits.spec import DigitsParameters
from millrace.components.train.spec import TrainParameters
from millrace.registry import components, load_component
from millrace.runtime.task import GivenArtifact, TaskRequest, read_result
from millrace.services.images import IMAGES
from millrace.training.options.models import Mlp
from tests import toys
from tests.components.train_data import CLASSES, picture, write_picture_records
from tests.pictures import png

pytestmark = pytest.mark.docker

each = pytest.mark.parametrize("name", IMAGES)
LOCKED_DOWN = {"read_only": True, "tmpfs": {"/tmp": ""}, "cap_drop": ["ALL"], "network_mode": "none"}


def output(engine: Any, image: str, *words: str, **options: Any) -> str:
    """What a container says; a failure raises with it."""
    said: bytes = engine.containers.run(image, list(words), remove=True, stderr=True, **options)
    return said.decode()


def inside(engine: Any, image: str, program: str) -> Any:
    """What a Python program prints as JSON in a container."""
    return json.loads(output(engine, image, "-c", program, entrypoint="python").splitlines()[-1])


def prepared(request: TaskRequest, folder: Path) -> Path:
    """The task directory of a request, writable for any user."""
    directory = folder / request.name
    request.write(directory)
    for opened in (folder, directory):
        opened.chmod(0o777)
    return directory


def training(folder: Path, epochs: int) -> TaskRequest:
    """A small training task."""
    return TaskRequest(
        name="train",
        component="millrace.components.train.spec:train",
        parameters=TrainParameters(model=Mlp(units=(16,), dropout=0), epochs=epochs).model_dump(mode="json"),
        inputs={"records": (GivenArtifact(path=write_picture_records(folder / "records", train=(60, 60, 60))),)},
    )


def run_task(engine: Any, image: str, request: TaskRequest, folder: Path, user: str) -> Path:
    """Run a task in a locked down container that sees its folder only, and give its task directory."""
    directory = prepared(request, folder)
    volumes = [f"{folder}:{folder}"]
    output(engine, image, "exec", "--task", str(directory), user=user, volumes=volumes, **LOCKED_DOWN)
    return directory


def state(container: Any) -> Any:
    """How a container is now."""
    container.reload()
    return container.attrs["State"]


@each
def test_starts_the_command_line(docker_engine: Any, images: dict[str, str], name: str) -> None:
    assert output(docker_engine, images[name], "--version") == f"millrace {__version__}\n"
    assert "usage" in output(docker_engine, images[name], "--help").lower()
    assert "parameters" in output(docker_engine, images[name], "describe", "train")


@each
def test_tells_what_it_is(docker_engine: Any, images: dict[str, str], name: str) -> None:
    labels = docker_engine.images.get(images[name]).labels
    said = {key.removeprefix("org.opencontainers.image."): value for key, value in labels.items()}
    assert said["title"] == f"millrace/{name}"
    assert said["version"] == __version__
    assert len(said["revision"].removesuffix("+changes")) == 12
    assert said["licenses"] == "Apache-2.0"
    assert said["description"].startswith("Millrace")
    assert "source" in said


@each
def test_holds_nothing_that_only_builds_or_compiles(docker_engine: Any, images: dict[str, str], name: str) -> None:
    program = """
import importlib.util, json, os, shutil, subprocess, sys
modules = ["kfp", "kfp_kubernetes", "sagemaker", "boto3", "docker", "moto", "pip", "pytest", "uv"]
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "programs": [name for name in ["gcc", "cc", "c++", "make", "ld", "strip", "git"] if shutil.which(name)],
    "modules": [name for name in modules if importlib.util.find_spec(name)],
    "folders": [path for path in ["/opt/build", "/opt/source", "/opt/wheels", "/tmp/.cache"] if os.path.exists(path)],
    "check": subprocess.run(["pip", "--python", sys.executable, "check"], capture_output=True, text=True).stdout,
}))
"""
    found = inside(docker_engine, images[name], program)
    if name == "train":  # keras-hub's models need no tensorflow-text, which has 194 MB
        unneeded = r"keras-hub [\d.]+ requires tensorflow-text, which is not installed\.\n"
        found["check"] = re.sub(f"^{unneeded}$", "No broken requirements found.\n", found["check"])
    assert found == {
        "user": [1000, 0],
        "programs": [],
        "modules": {"data": ["boto3"], "serve": ["boto3"]}.get(name, []),  # odd keys in S3; endpoints of SageMaker
        "folders": [],
        "check": "No broken requirements found.\n",
    }


@each
def test_has_what_its_components_import(docker_engine: Any, images: dict[str, str], name: str) -> None:
    specs = [load_component(found).spec for found in components()]
    modules = sorted(spec.main.partition(":")[0] for spec in specs if spec.image == name)
    assert modules, "no component uses this image"
    program = f"import importlib, json; print(json.dumps(len([importlib.import_module(name) for name in {modules}])))"
    assert inside(docker_engine, images[name], program) == len(modules)


def test_images_share_their_layers(docker_engine: Any, images: dict[str, str]) -> None:
    data, train, serve = (docker_engine.images.get(images[name]).attrs["RootFS"]["Layers"] for name in IMAGES)
    assert train[:-2] == serve[:-2], "train and serve differ in more than their own packages"
    assert train[: len(data) - 2] == data[:-2], "data's base is not train's"


def test_data_runs_locked_down_as_any_user(docker_engine: Any, images: dict[str, str], tmp_path: Path) -> None:
    request = TaskRequest(
        name="digits",
        component="millrace.components.digits.spec:digits",
        parameters=DigitsParameters(limit=2).model_dump(mode="json"),
    )
    directory = run_task(docker_engine, images["data"], request, tmp_path, user="54321:54321")
    result = read_result(directory)
    assert result is not None
    assert len(list((directory / result.outputs["dataset"].path).rglob("*.png"))) == 20


def test_a_task_ends_when_its_container_is_stopped(docker_engine: Any, images: dict[str, str], tmp_path: Path) -> None:
    directory = prepared(training(tmp_path, epochs=100_000), tmp_path)
    words, volumes = ["exec", "--task", str(directory)], [f"{tmp_path}:{tmp_path}"]
    task = docker_engine.containers.run(images["train"], words, volumes=volumes, detach=True)
    try:
        deadline = time.monotonic() + 60
        while not any((directory / "checkpoints").rglob("*")):
            assert state(task)["Running"], task.logs().decode()
            assert time.monotonic() < deadline, task.logs().decode()
            time.sleep(0.2)
        started = time.monotonic()
        task.stop(timeout=30)
        assert time.monotonic() - started < 15
        assert state(task)["ExitCode"] == 143
    finally:
        task.remove(force=True)


def test_an_image_on_top_runs_a_component_of_ones_own(
    docker_engine: Any, images: dict[str, str], tmp_path: Path
) -> None:
    context = tmp_path / "context"
    (context / "tests").mkdir(parents=True)
    (context / "tests" / "__init__.py").touch()
    shutil.copy(toys.__file__, context / "tests")
    (context / "Dockerfile").write_text(
        f"FROM {images['data']}\nCOPY tests /opt/components/tests\nENV MILLRACE_IMPORT_PATH=/opt/components\n"
    )
    extended = docker_engine.images.build(path=str(context), rm=True)[0].id
    try:
        request = TaskRequest(name="write", component=toys.write.spec.entry, parameters={"text": "one two three"})
        result = read_result(run_task(docker_engine, extended, request, tmp_path, user="54321:0"))
        assert result is not None
        assert result.metrics["length"] == 3
    finally:
        docker_engine.images.remove(extended)


@pytest.mark.slow
def test_train_trains_and_serve_becomes_healthy_and_answers(
    docker_engine: Any, images: dict[str, str], tmp_path: Path
) -> None:
    directory = run_task(docker_engine, images["train"], training(tmp_path, epochs=6), tmp_path, user="54321:0")
    result = read_result(directory)
    assert result is not None
    model = directory / result.outputs["model"].path
    server = docker_engine.containers.run(
        images["serve"],
        detach=True,
        volumes=[f"{model}:/mnt/models:ro"],
        read_only=True,
        tmpfs={"/tmp": ""},
        user="54321:0",
        environment={"http_proxy": "http://127.0.0.1:9"},
        healthcheck={"interval": 1_000_000_000},
        ports={"8080/tcp": ("127.0.0.1", None)},
    )
    try:
        deadline = time.monotonic() + 90
        while (health := state(server)["Health"])["Status"] == "starting":
            assert time.monotonic() < deadline, server.logs().decode()
            assert server.status == "running", server.logs().decode()
            time.sleep(0.5)
        assert health["Status"] == "healthy", f"{health}\n{server.logs().decode()}"
        port = server.attrs["NetworkSettings"]["Ports"]["8080/tcp"][0]["HostPort"]
        shown = png(picture(CLASSES.index("north"), 999))
        url = f"http://127.0.0.1:{port}/invocations"
        answer = httpx.post(url, content=shown, headers={"Content-Type": "image/png"}, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert "north" in answer.text
        server.stop(timeout=20)
        assert server.wait()["StatusCode"] == 0
    finally:
        server.remove(force=True)
