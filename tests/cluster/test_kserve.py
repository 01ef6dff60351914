"""Deploy on a cluster: roll-outs that promote good models and take bad ones back, with real servers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from millrace.components.deploy.spec import Canary, DeployParameters, Scaling, deploy
from millrace.errors import ConfigError, TaskFailedError, UnsupportedError
from millrace.runtime.execute import attempt
from millrace.runtime.models import load_predictor
from millrace.runtime.schemas import ImageRecords, ModelCard
from millrace.runtime.task import GivenArtifact, TaskRequest, TaskResult, launch
from millrace.testing import write_records
from tests.cluster.fake_kserve import SERVICES, FakeKServe, Servers
from tests.cluster.fake_kubernetes import FakeKubernetes
from tests.cluster.test_kserve_manifests import GOOD, OTHER, inference_service_schema, work
from tests.pictures import picture_records

SCHEMA = ImageRecords(height=8, width=8, channels=1, encoding="png", resize="stretch", classes=("a", "b", "c"))
GONE = "s3://models/gone"
RULES = [
    {"apiGroups": ["serving.kserve.io"], "resources": ["inferenceservices"], "verbs": ["create", "get", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]


def pictures(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two LiteRT models that differ in most answers."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(3)
    dense = keras.layers.Dense(3, activation="softmax", kernel_initializer="random_normal")
    net = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), dense])
    made = {}
    for uri in (GOOD, OTHER):
        made[uri] = folder = tmp_path_factory.mktemp("model")
        content = tf.lite.TFLiteConverter.from_keras_model(net).convert()
        (folder / "model.tflite").write_bytes(content)
        card = ModelCard(format="litert", name="linear", records=SCHEMA, parameters=195, bytes=len(content))
        (folder / "model.json").write_text(card.model_dump_json())
        dense.set_weights([-weight for weight in dense.get_weights()])
    return made


@pytest.fixture(scope="session")
def records(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records whose labels are what the good model answers."""
    images = pictures(24)
    labels = load_predictor(models[GOOD]).predict(images).argmax(axis=1)
    made = picture_records(images, labels, SCHEMA)
    return write_records(tmp_path_factory.mktemp("records"), SCHEMA, {"test": [made]})


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    kept = Servers(tmp_path_factory.mktemp("servers"))
    yield kept
    kept.close()


@dataclass
class Stage:
    """A cluster with KServe, and deploy tasks that reach it."""

    kubernetes: FakeKubernetes
    kserve: FakeKServe
    models: dict[str, Path]
    records: Path
    folder: Path
    tasks: list[Path] = field(default_factory=list)

    def request(
        self, uri: str, mode: str = "knative", served: str = "", run: str = "", **parameters: Any
    ) -> tuple[Path, TaskRequest]:
        """A deploy task for a model; `served` is an address whose files are another model's."""
        asked = DeployParameters(name="digits", check_records=24, **{"startup_timeout_seconds": 60, **parameters})
        request = TaskRequest(
            name="deploy",
            component=deploy.spec.entry,
            parameters=asked.model_dump(mode="json"),
            inputs={
                "model": (GivenArtifact(path=self.models[uri], uri=served or uri),),
                "records": (GivenArtifact(path=self.records),),
            },
            run=run,
            cluster=work(mode, ingress=self.kserve.gateway, poll_seconds=0.2),
        )
        folder = self.folder / f"task{len(self.tasks)}"
        self.tasks.append(folder)
        folder.mkdir()
        return folder, request

    def deploy(self, uri: str, mode: str = "knative", **more: Any) -> TaskResult:
        return attempt(*self.request(uri, mode, **more))

    def kill_after(self, patches: int, uri: str, **parameters: Any) -> None:
        """Run a deploy task in a process of its own, and kill it as soon as it has changed the service."""
        folder, request = self.request(uri, **parameters)
        request.write(folder)
        earlier = self.changes().count("patch")
        task = launch(folder)
        until(lambda: self.changes().count("patch") - earlier >= patches)
        task.kill()
        task.wait()
        assert task.stdin is not None
        task.stdin.close()

    def facts(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.tasks[-1] / "outputs" / "endpoint" / "endpoint.json").read_text())
        return loaded

    def service(self) -> dict[str, Any]:
        return self.kubernetes.get(SERVICES, "team", "digits")

    def serves(self) -> str:
        """Address of the model that is asked for, and nothing beside it."""
        spec = self.service()["spec"]
        assert not spec.get("canary")
        assert "canaryTrafficPercent" not in spec["predictor"]
        variables = {item["name"]: item["value"] for item in spec["predictor"]["containers"][0]["env"]}
        return str(variables["STORAGE_URI"])

    def answers_as(self, uri: str) -> bool:
        """Whether each of some requests through the gateway is answered by a model."""
        own = load_predictor(self.models[uri]).predict(pictures(24))
        for _ in range(5):
            answer = httpx.post(
                f"{self.kserve.gateway}/invocations",
                json=pictures(24).tolist(),
                headers={"Host": "digits.team.example.com"},
                trust_env=False,
            )
            given = [item["probabilities"] for item in answer.json()["predictions"]]
            if not np.allclose(given, own, atol=1e-4):
                return False
        return True

    def changes(self) -> list[str]:
        return [asked.verb for asked in self.kubernetes.requests if asked.verb in ("create", "patch", "delete")]


@pytest.fixture
def stage(
    contracts: Path,
    models: dict[str, Path],
    records: Path,
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    inference_service_schema(contracts)
    with FakeKubernetes(contracts) as kubernetes, FakeKServe(kubernetes, servers, dict(models)) as controller:
        account = "pipeline-runner"
        kubernetes.rules[f"system:serviceaccount:team:{account}"] = RULES
        config = kubernetes.kubeconfig(tmp_path / "kubeconfig", account=account, namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(config))
        yield Stage(kubernetes, controller, models, records, tmp_path)


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)


class TestKnative:
    def test_a_first_model_and_the_same_again(self, stage: Stage) -> None:
        ran = stage.deploy(GOOD, canary=Canary())
        assert ran.metrics["agreement"] == 1.0
        facts = stage.facts()
        assert facts == {
            "url": "http://digits.team.example.com",
            "pid": None,
            "model": "digits",
            "running": True,
            "name": "digits",
            "namespace": "team",
            "mode": "knative",
            "revision": "digits-predictor-00001",
            "percent": 100,
        }
        stage.kubernetes.fail(2, 503, retry_after="1")
        stage.deploy(GOOD, canary=Canary())
        assert stage.changes() == ["create", "patch"], "the verdict is written down; the second time nothing is changed"

    def test_a_good_canary_is_promoted(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        ran = stage.deploy(OTHER, canary=Canary(percent=20, max_latency_ms=60_000))
        assert ran.metrics["agreement"] == 1.0
        assert stage.kserve.history == [{"00001": 100}, {"00002": 20, "00001": 80}, {"00002": 100}]
        assert (stage.serves(), stage.facts()["revision"]) == (OTHER, "digits-predictor-00002")
        assert stage.answers_as(OTHER)

    def test_a_canary_with_wrong_weights_is_taken_back(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        before = stage.service()["spec"]
        stage.kserve.models["s3://models/mixed-up"] = stage.models[GOOD]
        with pytest.raises(TaskFailedError, match=r"answers differ from the model's own[^\n]*\nthe earlier model has"):
            stage.deploy(OTHER, served="s3://models/mixed-up", canary=Canary(percent=10))
        assert stage.service()["spec"] == before
        shares = [{name: share for name, share in split.items() if share} for split in stage.kserve.history]
        assert all(split.get("00002", 0) <= 10 for split in shares), shares
        assert stage.answers_as(GOOD)

    def test_a_canary_that_is_right_less_often_is_taken_back(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        with pytest.raises(TaskFailedError, match=r"the present model about 1\.000; allowed is a drop of 0\.1"):
            stage.deploy(OTHER, canary=Canary(max_accuracy_drop=0.1))
        assert (stage.serves(), stage.answers_as(GOOD)) == (GOOD, True)

    def test_a_canary_that_does_not_start_tells_its_pods_reason_first(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        with pytest.raises(TaskFailedError) as failed:
            stage.deploy(OTHER, served=GONE, canary=Canary())
        first, *others = str(failed.value).splitlines()
        assert "container kserve-container: CrashLoopBackOff: error: /nonexistent is not a model" in first
        assert "revision digits-predictor-00002 is not ready" in others[0]
        assert others[-1] == "the earlier model has all requests again"
        assert (stage.serves(), stage.answers_as(GOOD)) == (GOOD, True)

    def test_a_canary_may_wait_for_the_next_run(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        stage.deploy(OTHER, canary=Canary(percent=30, promote=False))
        assert stage.service()["spec"]["predictor"]["canaryTrafficPercent"] == 30
        assert stage.facts()["percent"] == 30
        stage.deploy(OTHER, canary=Canary(percent=30))
        assert (stage.serves(), stage.facts()["revision"]) == (OTHER, "digits-predictor-00002")

    def test_without_a_canary_a_bad_model_is_taken_back_too(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        stage.kserve.models["s3://models/mixed-up"] = stage.models[GOOD]
        with pytest.raises(TaskFailedError, match="the earlier model has all requests again"):
            stage.deploy(OTHER, served="s3://models/mixed-up")
        assert (stage.serves(), stage.answers_as(GOOD)) == (GOOD, True)

    def test_a_task_that_is_killed_goes_on(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        stage.kill_after(1, OTHER, canary=Canary(percent=20))
        stage.deploy(OTHER, canary=Canary(percent=20))
        rolled_out, promoted = ["create", "verdict", "patch"], ["patch", "verdict"]
        expected = [*rolled_out, *promoted]
        assert stage.changes() == [word.replace("verdict", "patch") for word in expected], "the second only promotes"
        assert (stage.serves(), stage.answers_as(OTHER)) == (OTHER, True)

    def test_a_task_that_is_killed_while_it_goes_back_does_so_again(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        stage.kserve.models["s3://models/mixed-up"] = stage.models[GOOD]
        stage.kill_after(2, OTHER, served="s3://models/mixed-up", canary=Canary(percent=10))
        assert stage.service()["spec"]["predictor"]["canaryTrafficPercent"] == 0
        assert stage.answers_as(GOOD)
        with pytest.raises(TaskFailedError, match="the earlier model has all requests again"):
            stage.deploy(OTHER, served="s3://models/mixed-up", canary=Canary(percent=10))
        assert (stage.serves(), stage.answers_as(GOOD)) == (GOOD, True)

    def test_a_model_that_passed_is_left_as_it_is_whatever_is_answered_later(self, stage: Stage) -> None:
        stage.deploy(OTHER)
        stage.kserve.models["s3://models/new"] = stage.models[GOOD]
        stage.deploy(GOOD, served="s3://models/new")
        before = stage.service()["spec"]
        with pytest.raises(TaskFailedError, match=r"answers differ[^\n]*\nthe model passed its checks before"):
            stage.deploy(OTHER, served="s3://models/new")
        assert stage.service()["spec"] == before

    def test_a_model_that_failed_is_not_tried_again_in_the_same_run(self, stage: Stage) -> None:
        stage.deploy(GOOD)
        stage.kserve.models["s3://models/mixed-up"] = stage.models[GOOD]
        for attempt_at_it in (1, 2):
            with pytest.raises(TaskFailedError, match="answers differ" if attempt_at_it == 1 else "not tried again"):
                stage.deploy(OTHER, served="s3://models/mixed-up", run="nightly")
            assert stage.answers_as(GOOD)
        with pytest.raises(TaskFailedError, match="answers differ"):
            stage.deploy(OTHER, served="s3://models/mixed-up", run="next")


class TestStandard:
    def test_a_good_canary_is_promoted(self, stage: Stage) -> None:
        stage.deploy(GOOD, "standard")
        stage.deploy(OTHER, "standard", canary=Canary(percent=20))
        first, split, *_, last = stage.kserve.history
        [before], [after] = first, last
        assert (split, before != after) == ({after: 20, before: 80}, True)
        assert (stage.serves(), stage.answers_as(OTHER)) == (OTHER, True)

    def test_a_canary_with_wrong_weights_is_withdrawn(self, stage: Stage) -> None:
        stage.deploy(GOOD, "standard")
        before = stage.service()["spec"]
        stage.kserve.models["s3://models/mixed-up"] = stage.models[GOOD]
        with pytest.raises(TaskFailedError, match=r"answers differ[^\n]*\nthe canary was ended"):
            stage.deploy(OTHER, "standard", served="s3://models/mixed-up", canary=Canary())
        assert stage.service()["spec"] == before
        assert stage.answers_as(GOOD)

    def test_an_update_waits_until_the_last_old_pod_is_gone(self, stage: Stage) -> None:
        stage.deploy(GOOD, "standard")
        stage.deploy(OTHER, "standard")
        assert (stage.serves(), stage.answers_as(OTHER)) == (OTHER, True)

    def test_the_mode_of_a_service_does_not_change(self, stage: Stage) -> None:
        stage.deploy(GOOD, "standard")
        with pytest.raises(
            UnsupportedError, match=r"runs in standard mode, which can't be changed: set target\.serving"
        ):
            stage.deploy(OTHER, "knative")


class TestCareful:
    def test_somebody_elses_service_is_left_alone(self, stage: Stage) -> None:
        body = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": {"predictor": {}}}
        stage.kubernetes.put(
            SERVICES,
            {**body, "metadata": {"name": "digits", "namespace": "team", "annotations": {}}, "status": {}},
        )
        with pytest.raises(UnsupportedError, match="was not made by deploy: choose another name, or hand it over with"):
            stage.deploy(GOOD)

    def test_a_right_that_is_missing(self, stage: Stage) -> None:
        stage.kubernetes.rules["system:serviceaccount:team:pipeline-runner"] = RULES[1:]
        with pytest.raises(ConfigError, match=r"may not create inferenceservices\.serving\.kserve\.io"):
            stage.deploy(GOOD)

    def test_as_a_step_of_a_compiled_pipeline(self, stage: Stage) -> None:
        """The words of a step's container, with all that the backend puts into them."""
        parameters = DeployParameters(name="digits", check_records=8, startup_timeout_seconds=60)
        made = {name: str(stage.folder / name) for name in ("endpoint", "metrics", "summary")}
        metrics = ("agreement", "latency_ms", "requests_per_second")
        uris = {"model": GOOD, "records": "s3://bucket/records"}
        given = {
            "inputs": {
                "parameterValues": {"parameters": parameters.model_dump_json()},
                "artifacts": {name: {"artifacts": [{"name": name, "uri": uri}]} for name, uri in uris.items()},
            },
            "outputs": {
                "parameters": {name: {"outputFile": str(stage.folder / name)} for name in metrics},
                "artifacts": {name: {"artifacts": [{"name": name, "uri": f"s3://bucket/{name}"}]} for name in made},
                "outputFile": str(stage.folder / "answer.json"),
            },
        }
        paths = {"model": str(stage.models[GOOD]), "records": str(stage.records)}
        words = ["--executor-input", json.dumps(given), "--run", "1", "--task", "deploy"]
        words += [word for name, path in paths.items() for word in ("--input", f"{name}={path}")]
        words += [word for name, path in made.items() for word in ("--output", f"{name}={path}")]
        words += ["--cluster", work(ingress=stage.kserve.gateway, poll_seconds=0.2).model_dump_json()]
        command = [sys.executable, "-P", "-m", "millrace", "exec", "deploy", *words]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        answer = json.loads((stage.folder / "answer.json").read_text())
        assert answer["parameterValues"]["agreement"] == 1.0
        endpoint = answer["artifacts"]["endpoint"]["artifacts"][0]
        assert endpoint["metadata"] == {"url": "http://digits.team.example.com", "running": True}
        assert stage.serves() == GOOD

    def test_on_this_machine_there_are_no_copies(self, stage: Stage) -> None:
        folder, request = stage.request(GOOD, scaling=Scaling(max_replicas=2))
        with pytest.raises(UnsupportedError, match="scaling: an endpoint on this machine is one process"):
            attempt(folder, request.model_copy(update={"cluster": None}))
