"""InferenceServices that KServe takes, and what is refused before one is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from millrace.components.deploy import kserve
from millrace.components.deploy.spec import Canary, DeployParameters, Scaling
from millrace.errors import UnsupportedError, UserError
from millrace.specs import Resources
from millrace.targets.kubeflow import ClusterWork, PodSettings, SecretVariable, Serving, Toleration
from tests.cluster.schemas import findings, load_schema

GOOD, OTHER = "s3://models/good", "s3://models/other"


def work(mode: str = "knative", **settings: Any) -> ClusterWork:
    serving = Serving.model_validate({"mode": mode, **settings})
    return ClusterWork(
        kind="inferenceservice",
        namespace="team",
        image="registry.example.org/millrace/serve:1",
        settings=serving.model_dump(mode="json"),
    )


def inference_service_schema(contracts: Path) -> dict[str, Any]:
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


@pytest.fixture(scope="session")
def schema(contracts: Path) -> dict[str, Any]:
    return inference_service_schema(contracts)


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
