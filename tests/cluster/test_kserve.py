"""Deploy on a cluster: manifests that KServe takes, roll-outs that promote good models and take bad ones back."""

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

from millrace.components.deploy import kserve
from millrace.components.deploy.spec import Canary, DeployParameters, Scaling, deploy
from millrace.errors import ConfigError, TaskFailedError, UnsupportedError, UserError
from millrace.runtime.execute import attempt
from millrace.runtime.images import encode_image
from millrace.runtime.models import load_predictor
from millrace.runtime.records import ImageRecord, RecordWriter, pack
from millrace.runtime.schemas import ImageRecords, ModelCard, ShardCounts
from millrace.runtime.task import GivenArtifact, TaskRequest, TaskResult, launch
from millrace.specs import Resources
from millrace.targets.kubeflow import ClusterWork, PodSettings, SecretVariable, Serving, Toleration
from tests.cluster.fake_kserve import SERVICES, FakeKServe, Servers
from tests.cluster.fake_kubernetes import FakeKubernetes
from tests.cluster.schemas import findings, load_schema

SCHEMA = ImageRecords(height=8, width=8, channels=1, encoding="png", resize="stretch", classes=("a", "b", "c"))
GOOD, OTHER, GONE = "s3://models/good", "s3://models/other", "s3://models/gone"
RULES = [
    {"apiGroups": ["serving.kserve.io"], "resources": ["inferenceservices"], "verbs": ["create", "get", "patch"]},
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
]


def work(mode: str = "knative", **settings: Any) -> ClusterWork:
    serving = Serving(mode=mode, **settings)  # type: ignore[arg-type]
    return ClusterWork(
        kind="inferenceservice",
        namespace="team",
        image="registry.example.org/millrace/serve:1",
        settings=serving.model_dump(mode="json"),
    )


@pytest.fixture(scope="session")
def schema(contracts: Path) -> dict[str, Any]:
    """The public schema, with what v0.20 has and it lacks: canaries of Standard mode and names of predictors."""
    loaded = load_schema(contracts, "InferenceService")
    assert loaded is not None
    fields = loaded["properties"]["spec"]["properties"]
    predictor = fields["predictor"]
    named = {**predictor, "properties": {**predictor["properties"], "name": {"type": "string"}}}
    share = {"type": "integer", "minimum": 0, "maximum": 100}
    fields.setdefault(
        "canary",
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"predictor": named, "trafficPercent": share},
                "required": ["predictor", "trafficPercent"],
                "additionalProperties": False,
            },
        },
    )
    return loaded


class TestManifest:
    @pytest.mark.parametrize("mode", ["knative", "standard"])
    @pytest.mark.parametrize(
        ("settings", "parameters"),
        [
            ({}, {}),
            ({"runtime": "kserve-tensorflow-serving"}, {}),
            ({}, {"scaling": Scaling(min_replicas=1, max_replicas=4)}),
            ({}, {"max_batch_size": 8, "timeout_seconds": 12.5}),
        ],
    )
    def test_every_field_is_one_that_kserve_knows(
        self, schema: dict[str, Any], mode: str, settings: dict[str, Any], parameters: dict[str, Any]
    ) -> None:
        pod = PodSettings(
            node_selector={"disk": "fast"},
            tolerations=(Toleration(key="gpu", operator="Exists", effect="NoSchedule"),),
            environment={"AWS_REGION": "eu-west-1"},
            secret_variables=(SecretVariable(variable="TOKEN", secret="s", key="k"),),
            image_pull_secrets=("registry",),
            image_pull_policy="Always",
            shared_memory_gib=1,
            labels={"team": "a"},
            annotations={"note": "b"},
        )
        whole = work(mode, **settings).model_copy(
            update={"pod": pod, "resources": Resources(gpus=1, cpus=0.5), "service_account": "reader"}
        )
        asked = DeployParameters(name="digits", **parameters)
        kserve.check(asked, whole)
        wanted = kserve.predictor(asked, whole, "keras", GOOD)
        made = kserve.service(asked, whole, wanted)
        assert findings(schema, made) == []
        before = kserve.predictor(asked, whole, "keras", OTHER)
        changes = [kserve.rolled_out({"spec": {"predictor": before}}, wanted, 10), kserve.opened(wanted, 10)]
        assert [findings(schema, {"spec": {**change["spec"], "predictor": wanted}}) for change in changes] == [[], []]

    def test_the_serve_image_gets_the_model_by_its_address(self) -> None:
        asked = DeployParameters(name="digits", max_queue=512, scaling=Scaling(max_replicas=3, metric="rps", target=50))
        made = kserve.predictor(asked, work(), "litert", GOOD)
        container = made["containers"][0]
        told = {item["name"]: item["value"] for item in container["env"]}
        assert told == {
            "STORAGE_URI": GOOD,
            "MILLRACE_MODEL_NAME": "digits",
            "MILLRACE_MAX_QUEUE": "512",
            "MILLRACE_REVISION": kserve.revision(made),
        }
        assert (container["name"], container["command"]) == ("kserve-container", ["millrace", "serve"])
        scaling = {name: made[name] for name in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout")}
        assert scaling == {"minReplicas": 1, "maxReplicas": 3, "scaleMetric": "rps", "scaleTarget": 50, "timeout": 40}

    def test_minio_is_asked_in_the_way_of_s3(self) -> None:
        asked = DeployParameters(name="digits")
        made = kserve.predictor(asked, work(), "litert", "minio://mlpipeline/run/model")
        assert made == kserve.predictor(asked, work(), "litert", "s3://mlpipeline/run/model")

    def test_tensorflow_serving_gets_a_folder_named_by_a_version(self) -> None:
        made = kserve.predictor(DeployParameters(name="digits"), work(runtime="tfs"), "keras", f"{GOOD}/")
        assert made["storageUris"] == [{"uri": f"{GOOD}/saved_model", "mountPath": "/mnt/models/1"}]
        assert made["model"]["runtime"] == "tfs"

    def test_the_digest_is_of_everything_that_serves(self) -> None:
        def digest(uri: str = GOOD, image: str = "a:1", **parameters: Any) -> str:
            place = work().model_copy(update={"image": image})
            return kserve.revision(kserve.predictor(DeployParameters(name="d", **parameters), place, "litert", uri))

        one = digest()
        assert one == digest()
        assert len({one, digest(uri=OTHER), digest(image="a:2"), digest(max_queue=999)}) == 4
        assert one == digest(canary=Canary(), check_records=3), "how it is checked does not change what serves"


class TestRefused:
    @pytest.mark.parametrize(
        ("mode", "parameters", "settings", "told"),
        [
            ("knative", {"name": "My.Model"}, {}, "name='My.Model' can't be an InferenceService's"),
            ("knative", {"name": "a" * 47}, {}, "at most 46"),
            ("knative", {"host": "0.0.0.0"}, {}, "host=0.0.0.0: KServe chooses it"),
            ("knative", {"port": 80}, {}, "port=80: KServe chooses it"),
            ("knative", {"scaling": Scaling(metric="cpu")}, {}, "Knative mode of KServe scales by concurrency or rps"),
            ("standard", {"scaling": Scaling(metric="rps")}, {}, "Standard mode of KServe scales by cpu or memory"),
            ("standard", {"scaling": Scaling(min_replicas=0)}, {}, "Standard mode of KServe keeps at least 1"),
            ("standard", {"scaling": Scaling(metric="memory")}, {}, "only with a scaling.target in percent"),
            ("standard", {"canary": Canary()}, {"runtime": "tfs"}, "does not get the model's files"),
        ],
    )
    def test_what_a_mode_ignores(
        self, mode: str, parameters: dict[str, Any], settings: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(UserError, match=told):
            kserve.check(DeployParameters(**{"name": "digits", **parameters}), work(mode, **settings))

    @pytest.mark.parametrize(
        ("uri", "model_format", "parameters", "settings", "told"),
        [
            ("", "keras", {}, {}, "the model is at no address of its own"),
            ("/data/model", "keras", {}, {}, "the model is at /data/model: KServe fetches from s3"),
            (GOOD, "litert", {}, {"runtime": "tfs"}, "no runtime of KServe serves a litert model"),
            (GOOD, "keras", {"max_queue": 999}, {"runtime": "tfs"}, "max_queue=999: a limit of the serve image"),
        ],
    )
    def test_what_can_not_be_served(
        self, uri: str, model_format: str, parameters: dict[str, Any], settings: dict[str, Any], told: str
    ) -> None:
        with pytest.raises(UnsupportedError, match=told):
            kserve.predictor(DeployParameters(name="d", **parameters), work(**settings), model_format, uri)

    @pytest.mark.parametrize(
        ("values", "told"),
        [
            ({"min_replicas": 3, "max_replicas": 2}, "min_replicas is 3, more than max_replicas"),
            ({"target": 5}, "target is 5 of nothing"),
            ({"metric": "cpu", "target": 101}, "1 to 100 percent"),
        ],
    )
    def test_scaling_that_contradicts_itself(self, values: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            Scaling(**values)


def test_a_merge_patch_leaves_nothing_behind() -> None:
    old = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
    new = {"b": {"c": 4}, "e": [2], "f": {"g": 1}}
    assert kserve.replacing(old, new) == {"a": None, "b": {"c": 4, "d": None}, "e": [2], "f": {"g": 1}}


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
    folder = tmp_path_factory.mktemp("records")
    images = pictures(24)
    labels = load_predictor(models[GOOD]).predict(images).argmax(axis=1).tolist()
    (folder / "schema.json").write_text(SCHEMA.model_dump_json())
    file = folder / "test-00000-of-00001.tfrecord"
    with RecordWriter(file) as writer:
        for index, (picture, label) in enumerate(zip(images, labels, strict=True)):
            writer.write(pack(ImageRecord(encode_image(picture, SCHEMA), label, f"file:///{index}.png")))
    counts = ShardCounts(file=file.name, channel="test", records=len(images), bytes=file.stat().st_size)
    file.with_suffix(".json").write_text(counts.model_dump_json())
    return folder


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

    def request(self, uri: str, mode: str = "knative", served: str = "", **parameters: Any) -> tuple[Path, TaskRequest]:
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
            cluster=work(mode, ingress=self.kserve.gateway, poll_seconds=0.2),
        )
        folder = self.folder / f"task{len(self.tasks)}"
        self.tasks.append(folder)
        folder.mkdir()
        return folder, request

    def deploy(self, uri: str, mode: str = "knative", served: str = "", **parameters: Any) -> TaskResult:
        return attempt(*self.request(uri, mode, served, **parameters))

    def kill_after(self, patches: int, uri: str, **parameters: Any) -> None:
        """Run a deploy task in a process of its own, and kill it as soon as it has changed the service."""
        folder, request = self.request(uri, **parameters)
        request.write(folder)
        task = launch(folder)
        until(lambda: self.changes().count("patch") >= patches)
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
    schema: dict[str, Any],
    models: dict[str, Path],
    records: Path,
    servers: Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
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
        assert stage.changes() == ["create"], "the second time nothing is changed"

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
        assert stage.changes() == ["create", "patch", "patch"], "the second task only promotes"
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
