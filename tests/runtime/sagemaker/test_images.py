"""The images themselves as SageMaker starts them: as root, with /opt/ml laid out by hand."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.components.train_data import CLASSES, picture, write_picture_records
from tests.pictures import png
from tests.runtime.sagemaker.layout import Processing, Training

pytestmark = [pytest.mark.docker, pytest.mark.slow]

TRAIN, EVALUATE = (f"millrace.components.{name}.spec:{name}" for name in ("train", "evaluate"))
SETTINGS = {"model": '{"kind":"mlp","units":[16],"dropout":0}', "epochs": "2", "learning_rate": "0.01"}


def start(engine: Any, image: str, base: Path, *words: str, code: int = 0, **options: Any) -> str:
    """Run a container on its /opt/ml, without a network, and give what it says."""
    options = {"user": "0", "network_mode": "none", **options}
    container = engine.containers.run(image, list(words), volumes=[f"{base}:/opt/ml"], detach=True, **options)
    try:
        found = container.wait(timeout=300)["StatusCode"]
        said: str = container.logs().decode()
        assert found == code, said
        return said
    finally:
        container.remove(force=True)


def process(engine: Any, image: str, job: Processing, *words: str, **options: Any) -> str:
    job.ready()
    return start(engine, image, job.base, *words, "--task", "here", entrypoint=["millrace", "exec"], **options)


def train(engine: Any, image: str, job: Training, **options: Any) -> str:
    environment: Mapping[str, str] = job.environment
    return start(engine, image, job.base, "train", environment=environment, **options)


def assert_served(engine: Any, image: str, model: Path) -> None:
    """The service's contract of a model: /ping, /invocations, an end within 30 s."""
    server = engine.containers.run(
        image,
        ["serve"],
        user="0",
        volumes=[f"{model}:/opt/ml/model:ro"],
        ports={"8080/tcp": ("127.0.0.1", None)},
        detach=True,
    )
    try:
        server.reload()
        url = f"http://127.0.0.1:{server.attrs['NetworkSettings']['Ports']['8080/tcp'][0]['HostPort']}"
        deadline = time.monotonic() + 120
        while not ready(url):
            assert time.monotonic() < deadline, server.logs().decode()
            time.sleep(0.5)
        picture_file = png(picture(CLASSES.index("north"), 999))
        headers = {"Content-Type": "image/png"}
        answer = httpx.post(f"{url}/invocations", content=picture_file, headers=headers, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        assert set(answer.json()["predictions"][0]) == {"label", "index", "probabilities"}
        large = bytes(9 * 2**20)
        assert httpx.post(f"{url}/invocations", content=large, headers=headers, trust_env=False).status_code == 413
        server.stop(timeout=30)
        assert server.wait()["StatusCode"] == 0
    finally:
        server.remove(force=True)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ping", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def copied(records: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for file in records.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def test_data_are_listed_by_a_processing_job(docker_engine: Any, images: dict[str, str], tmp_path: Path) -> None:
    pictures = Processing(tmp_path / "pictures")
    pictures.take("dataset")
    process(docker_engine, images["data"], pictures, "digits", "--open", "limit=3")
    listing = Processing(tmp_path / "listing")
    listing.give("dataset")
    pictures.output("dataset").rename(tmp_path / "dataset")
    (tmp_path / "dataset").rename(listing.base / "processing" / "input" / "dataset" / "all")
    listing.take("manifest", "metrics")
    split = ['{"split": ', '{"test": 0.2, ', '"train": 0.7}}']
    said = process(docker_engine, images["data"], listing, "manifest", "--parameters", *split)
    assert "objects=30" in said
    assert json.loads((listing.output("metrics") / "metrics.json").read_text())["objects"] == 30
    assert (listing.output("manifest") / "index.parquet").is_file()
    assert json.loads(listing.message)["metrics"]["objects"] == 30


def test_a_model_is_trained_and_evaluated_from_its_archive(
    docker_engine: Any, images: dict[str, str], tmp_path: Path
) -> None:
    records = write_picture_records(tmp_path / "records", train=(60, 60, 60), test=(9, 9, 9))
    first = Training(tmp_path / "training", TRAIN, SETTINGS)
    copied(records, first.give("records"))
    (first.base / "checkpoints").mkdir()
    said = train(docker_engine, images["train"], first)
    assert "epoch=2 loss=" in said
    assert (first.base / "model" / "model.json").is_file()
    assert list((first.base / "checkpoints" / "job-1").iterdir())
    assert list((first.base / "output" / "tensorboard").rglob("events*"))
    assert_served(docker_engine, images["serve"], first.base / "model")

    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as archive:
        archive.add(first.base / "model", ".")
    second = Processing(tmp_path / "evaluation")
    copied(records, second.give("records"))
    (tmp_path / "model.tar.gz").rename(second.give("model") / "model.tar.gz")
    second.take("report", "predictions", "metrics")
    settings = json.dumps({"latency_runs": 1, "mistakes": 1})
    process(docker_engine, images["train"], second, EVALUATE, "--parameters", settings, "--archive", "model=.")
    assert [file.name for file in second.output("report").iterdir()] == ["report.html"]
    assert [file.name for file in second.output("predictions").iterdir()] == ["answers-00000.parquet"]
    assert 0 <= json.loads((second.output("metrics") / "metrics.json").read_text())["accuracy"] <= 1


def test_a_run_that_starts_again_goes_on(docker_engine: Any, images: dict[str, str], tmp_path: Path) -> None:
    job = Training(tmp_path, TRAIN, {**SETTINGS, "epochs": "300", "early_stopping": "null"})
    copied(write_picture_records(tmp_path / "records"), job.give("records"))
    (job.base / "checkpoints").mkdir()
    container = docker_engine.containers.run(
        images["train"],
        ["train"],
        user="0",
        network_mode="none",
        environment=job.environment,
        volumes=[f"{job.base}:/opt/ml"],
        detach=True,
    )
    try:
        for line in container.logs(stream=True, follow=True):
            if line.startswith(b"epoch=2 "):
                break
        container.stop(timeout=120)
        container.reload()
        assert container.attrs["State"]["ExitCode"] == 143, container.logs().decode()
        assert "told to stop: checkpoint written" in container.logs().decode()
    finally:
        container.remove(force=True)
    assert not any((job.base / "model").iterdir())
    said = train(docker_engine, images["train"], job)
    assert "going on from step" in said
    assert "epoch=1 " not in said
    assert "epoch=300 " in said
    assert (job.base / "model" / "model.json").is_file()


def test_an_ordinary_user_is_told_at_once(docker_engine: Any, images: dict[str, str], tmp_path: Path) -> None:
    job = Processing(tmp_path)
    job.take("dataset")
    said = process(docker_engine, images["data"], job, "digits", user="54321", code=2)
    assert "error: user 54321 of this container may not write to /opt/ml/processing/output/dataset" in said
    for folder in (job.output("dataset"), job.base):
        folder.chmod(0o777)
    process(docker_engine, images["data"], job, "digits", "--open", "limit=1", user="54321")
    assert len(list(job.output("dataset").rglob("*.png"))) == 10
