"""What a task's pod gets: from its resources and from the target's settings."""

from __future__ import annotations

import json
from typing import Any

import pytest

from millrace.compilers.kubeflow import compile_pipeline
from millrace.errors import ConfigError, UnsupportedError, UserError
from millrace.pipelines.digits import Digits, digits
from millrace.specs import Distribution, OpenField, PipelineSpec, Resources, Retries, RuntimeParameter
from millrace.targets.kubeflow import ClusterWork, Kubeflow
from tests.compilers.kubeflow.reading import Read, compiled
from tests.toys import Play, play


def with_task(spec: PipelineSpec, name: str, **changes: Any) -> PipelineSpec:
    tasks = tuple(task.model_copy(update=changes) if task.name == name else task for task in spec.tasks)
    return spec.model_copy(update={"tasks": tasks})


def played(target: dict[str, Any], **changes: Any) -> Read:
    """The toy pipeline with another task `work`."""
    return compiled(with_task(play.compose(Play()), "work", **changes), Kubeflow.model_validate(target))


def digits_with(target: dict[str, Any], **changes: Any) -> Read:
    """The digits pipeline with another task `train`."""
    spec = digits.compose(Digits.model_validate({"tune": {"space": {"epochs": {"kind": "int", "low": 1, "high": 3}}}}))
    return compiled(with_task(spec, "train", **changes), Kubeflow.model_validate(target))


class TestResources:
    def test_they_are_limits_of_which_kubernetes_makes_requests(self) -> None:
        document = played({}, resources=Resources(cpus=1.25, memory_gib=1.5, gpus=2, timeout_minutes=0.51))
        found = document.container("work")["resources"]
        assert (found["resourceCpuLimit"], found["resourceMemoryLimit"]) == ("1250m", "1536Mi")
        assert found["accelerator"]["resourceType"] == "nvidia.com/gpu"
        assert found["accelerator"]["resourceCount"] == "2"
        assert document.pod("work")["activeDeadlineSeconds"] == "31"

    def test_without_gpus_there_is_no_accelerator(self) -> None:
        assert "accelerator" not in played({}).container("work")["resources"]

    def test_retries_go_on_as_long_as_all_attempts_may_take(self) -> None:
        retries = Retries(limit=3, backoff_seconds=1.5, factor=3)
        document = played({}, retries=retries, resources=Resources(timeout_minutes=10))
        assert document.task("work")["retryPolicy"] == {
            "maxRetryCount": 3,
            "backoffDuration": "2s",
            "backoffFactor": 3.0,
            "backoffMaxDuration": "2420s",  # four attempts of 600 s, and waits of 1.5, 4.5 and 13.5 s
        }

    def test_the_configuration_wins_over_what_the_pipeline_says(self) -> None:
        target = {"pod": {"memory_gib": 3}, "tasks": {"work": {"gpus": 1, "timeout_minutes": 2, "retries": 0}}}
        document = played(target, resources=Resources(cpus=2, memory_gib=1), retries=Retries(limit=3))
        found = document.container("work")["resources"]
        assert (found["resourceCpuLimit"], found["resourceMemoryLimit"]) == ("2", "3072Mi")
        assert found["accelerator"]["resourceCount"] == "1"
        assert document.pod("work")["activeDeadlineSeconds"] == "120"
        assert "retryPolicy" not in document.task("work")
        assert "accelerator" not in document.container("again")["resources"]

    def test_no_retries_are_no_policy(self) -> None:
        assert "retryPolicy" not in played({}, retries=Retries(limit=0)).task("work")


class TestCaching:
    @pytest.mark.parametrize(
        ("target", "cached"),
        [
            ({}, True),
            ({"cache": False}, False),
            ({"pod": {"cache": False}}, False),
            ({"tasks": {"work": {"cache": False}}}, False),
            ({"cache": False, "tasks": {"work": {"cache": True}}}, True),
            ({"tasks": {"again": {"cache": False}}}, True),
        ],
    )
    def test_it_can_be_turned_off(self, target: dict[str, Any], cached: bool) -> None:
        assert played(target).task("work")["cachingOptions"] == ({"enableCache": True} if cached else {})

    def test_a_task_may_refuse_it(self) -> None:
        assert played({"tasks": {"work": {"cache": True}}}, cache=False).task("work")["cachingOptions"] == {}

    def test_what_reaches_outside_the_pipeline_runs_each_time(self) -> None:
        spec = play.compose(Play.model_validate({"write": {"outside": "/data/words.txt"}}))
        assert compiled(spec).task("write")["cachingOptions"] == {}
        assert compiled(play.compose(Play())).task("write")["cachingOptions"] == {"enableCache": True}

    def test_so_does_what_a_run_may_send_outside(self) -> None:
        opened = RuntimeParameter(
            name="write.outside", kind="string", default="", fills=(OpenField(task="write", path="outside"),)
        )
        spec = play.compose(Play()).model_copy(update={"runtime_parameters": (opened,)})
        assert compiled(spec).task("write")["cachingOptions"] == {}

    def test_a_setting_of_kfps_own_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = played({}).text
        monkeypatch.setenv("KFP_DISABLE_EXECUTION_CACHING_BY_DEFAULT", "true")
        assert played({}).text == expected


class TestSettings:
    def test_everything_of_kubernetes_comes_through(self) -> None:
        document = played(
            {
                "pod": {
                    "node_selector": {"pool": "cpu"},
                    "environment": {"AWS_REGION": "eu-central-1"},
                    "secret_variables": [{"variable": "TOKEN", "secret": "store", "key": "token"}],
                    "config_map_variables": [{"variable": "LEVEL", "config_map": "log", "key": "level"}],
                    "image_pull_secrets": ["registry"],
                    "labels": {"team": "vision"},
                },
                "tasks": {
                    "work": {
                        "node_selector": {"pool": "gpu"},
                        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                        "secret_volumes": [{"secret": "certificates", "path": "/etc/certificates"}],
                        "volume_claims": [{"claim": "data", "path": "/data"}],
                        "shared_memory_gib": 0.5,
                        "image_pull_policy": "Always",
                        "annotations": {"sidecar.istio.io/inject": "false"},
                        "accelerator": "amd.com/gpu",
                    }
                },
            },
            resources=Resources(gpus=1),
        )
        pod = document.pod("work")
        assert pod["nodeSelector"] == {"labels": {"pool": "gpu"}}
        assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}]
        assert pod["secretAsEnv"][0]["keyToEnv"] == [{"envVar": "TOKEN", "secretKey": "token"}]
        assert pod["secretAsVolume"][0]["mountPath"] == "/etc/certificates"
        assert pod["configMapAsEnv"][0]["keyToEnv"] == [{"configMapKey": "level", "envVar": "LEVEL"}]
        assert pod["pvcMount"][0]["mountPath"] == "/data"
        assert pod["emptyDirMounts"] == [
            {"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "512Mi"}
        ]
        assert pod["imagePullPolicy"] == "Always"
        assert pod["imagePullSecret"][0]["secretName"] == "registry"
        assert pod["podMetadata"] == {
            "labels": {"team": "vision"},
            "annotations": {"sidecar.istio.io/inject": "false"},
        }
        assert document.container("work")["env"] == [{"name": "AWS_REGION", "value": "eu-central-1"}]
        assert document.container("work")["resources"]["accelerator"]["resourceType"] == "amd.com/gpu"

    def test_a_tasks_own_settings_are_its_own(self) -> None:
        target = {
            "pod": {"tolerations": [{"key": "all"}], "labels": {"team": "vision"}},
            "tasks": {"work": {"tolerations": [{"key": "all"}, {"key": "gpu"}], "labels": {"kind": "work"}}},
        }
        document = played(target)
        assert [one["key"] for one in document.pod("work")["tolerations"]] == ["all", "gpu"]
        assert [one["key"] for one in document.pod("again")["tolerations"]] == ["all"]
        assert document.pod("work")["podMetadata"]["labels"] == {"team": "vision", "kind": "work"}

    def test_an_unknown_task_is_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"target\.tasks\.werk: unknown task: did you mean 'work'"):
            played({"tasks": {"werk": {}}})

    def test_images_that_may_change_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="`latest` means another image tomorrow"):
            played({"images": {"tag": "latest"}})


class TestClusterSteps:
    def work(self, document: Read, task: str) -> ClusterWork:
        (text,) = document.argument(task, "--cluster")
        return ClusterWork.model_validate_json(text)

    def test_training_on_several_hosts_is_handed_over_whole(self) -> None:
        document = digits_with(
            {
                "namespace": "team",
                "service_account": "runner",
                "training": {"kind": "mpijob"},
                "tasks": {"train": {"node_selector": {"pool": "gpu"}, "shared_memory_gib": 2}},
            },
            distribution=Distribution(mode="ranks", hosts=4),
            resources=Resources(cpus=8, memory_gib=32, gpus=2, timeout_minutes=600),
        )
        work = self.work(document, "train")
        assert (work.kind, work.namespace, work.service_account) == ("mpijob", "team", "runner")
        assert (work.hosts, work.processes, work.resources.gpus) == (4, 1, 2)
        assert work.image == document.container("train")["image"]
        assert work.pod.node_selector == {"pool": "gpu"}
        assert work.settings["runtime"] == "millrace"
        own = document.container("train")["resources"]
        assert (own["resourceCpuLimit"], own["resourceMemoryLimit"]) == ("500m", "1024Mi")
        assert "accelerator" not in own
        assert document.pod("train") == {
            "activeDeadlineSeconds": "36000",
            "fieldPathAsEnv": [{"name": "MILLRACE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}],
        }

    @pytest.mark.parametrize(
        ("parameters", "processes", "told"),
        [
            ({"strategy": "multiworker"}, 2, r"train\.strategy=multiworker takes one process a host"),
            ({"elastic": {"min_workers": 9}}, 2, r"train\.elastic\.min_workers=9, with 8 ranks"),
            ({"elastic": {}, "sharding": "file"}, 1, r"train\.elastic: the hosts hold different record files"),
            ({"batch_size": 3}, 1, r"train\.batch_size=3: .* 4 or more"),
        ],
    )
    def test_what_hosts_cannot_train_together_is_refused(
        self, parameters: dict[str, Any], processes: int, told: str
    ) -> None:
        asked = Distribution(mode="ranks", hosts=4, processes=processes)
        with pytest.raises(UserError, match=told):
            digits_with({}, distribution=asked, parameters=parameters)

    def test_several_processes_of_one_host_train_in_its_own_pod(self) -> None:
        document = digits_with({}, distribution=Distribution(mode="ranks", processes=3))
        assert document.argument("train", "--cluster") == []
        assert document.argument("train", "--processes") == ["3"]
        with pytest.raises(UserError, match=r"train\.batch_size=2: .* 3 or more"):
            digits_with({}, distribution=Distribution(mode="ranks", processes=3), parameters={"batch_size": 2})

    def test_one_host_trains_in_its_own_pod(self) -> None:
        document = digits_with({})
        assert document.argument("train", "--cluster") == []
        assert document.container("train")["resources"]["resourceMemoryLimit"] == "4096Mi"

    @pytest.mark.parametrize(("kind", "handed"), [("katib", True), ("task", False)])
    def test_tuning_goes_to_katib_when_asked(self, kind: str, handed: bool) -> None:
        document = digits_with({"tuning": {"kind": kind}})
        assert [json.loads(text)["kind"] for text in document.argument("tune", "--cluster")] == (
            ["experiment"] if handed else []
        )

    def test_serving_is_left_to_kserve_and_done_each_time(self) -> None:
        document = digits_with({"serving": {"service_account": "models"}})
        work = self.work(document, "deploy")
        assert (work.kind, work.service_account) == ("inferenceservice", "models")
        assert document.task("deploy")["cachingOptions"] == {}
        alone = digits_with({"serving": {"kind": "none"}})
        assert alone.argument("deploy", "--cluster") == []
        assert alone.task("deploy")["cachingOptions"] == {"enableCache": True}

    @pytest.mark.parametrize(
        ("task", "distribution"),
        [("work", Distribution(hosts=2)), ("work", Distribution(processes=2))],
    )
    def test_hosts_and_ranks_that_nobody_would_start_are_refused(self, task: str, distribution: Distribution) -> None:
        spec = with_task(play.compose(Play()), task, distribution=distribution)
        with pytest.raises(UnsupportedError, match=r"tasks\.work: distribution asks for"):
            compile_pipeline(spec, Kubeflow())
