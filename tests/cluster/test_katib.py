"""Search on a cluster: Experiments that Katib takes, and studies like those of a search in one pod."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes import client

from millrace.components.tune import katib
from millrace.components.tune.refusals import check
from millrace.components.tune.spec import (
    Hyperband,
    MedianRule,
    NoPruning,
    Objective,
    RandomSampler,
    TpeSampler,
    TuneParameters,
    tune,
)
from millrace.components.tune.study import Search
from millrace.errors import ConfigError, TaskFailedError, UnsupportedError, UserError
from millrace.runtime.cluster.remote import RemoteTask
from millrace.runtime.cluster.rights import RIGHTS
from millrace.runtime.execute import attempt
from millrace.runtime.task import GivenArtifact, TaskRequest, TaskResult, launch, read_failure
from millrace.specs import Resources
from millrace.targets.kubeflow import ClusterWork, PodSettings
from tests.cluster.fake_katib import EXPERIMENTS, FakeKatib, until
from tests.cluster.fake_kubernetes import FakeKubernetes
from tests.cluster.schemas import findings, load_schema
from tests.conftest import SECRET_KEY, Bucket

SPACE: dict[str, Any] = {"x": {"kind": "float", "low": -10, "high": 10}}
HEIGHT = Objective(metric="height", intermediate="epoch_height")


def searching(**knobs: Any) -> TuneParameters:
    chosen = {"space": SPACE, "objective": HEIGHT, "trials": 3, "pruner": NoPruning(), **knobs}
    return TuneParameters.model_validate({"component": "tests.cluster.hill:hill", **chosen})


def work(**changes: Any) -> ClusterWork:
    made = ClusterWork(
        kind="experiment",
        namespace="team",
        image="registry.example.org/millrace/train:1",
        resources=Resources(cpus=0.5, memory_gib=1),
        settings={"kind": "katib", "poll_seconds": 0.2},
    )
    return made.model_copy(update=changes)


class TestManifest:
    @pytest.mark.parametrize(
        "knobs",
        [
            {},
            {"pruner": MedianRule(startup_trials=0)},
            {"sampler": RandomSampler()},
            {"sampler": TpeSampler(multivariate=False), "parallel": 8},
            {"space": {"steps": {"kind": "int", "low": 1, "high": 64, "log": True}}},
            {"space": {"shape": {"form": {"kind": "categorical", "choices": ["round", "steep"]}}}},
        ],
    )
    def test_every_field_is_one_that_katib_and_kubernetes_know(self, contracts: Path, knobs: dict[str, Any]) -> None:
        schema = load_schema(contracts, "Experiment")
        assert schema is not None
        pod = PodSettings(
            node_selector={"disk": "fast"}, environment={"A": "1"}, shared_memory_gib=1, labels={"t": "a"}
        )
        made = katib.experiment("tune-1", searching(**knobs), work(pod=pod), RemoteTask(name="trial", run="1"))
        assert findings(schema, made) == []
        job = made["spec"]["trialTemplate"]["trialSpec"]
        api = client.ApiClient()
        read = api.deserialize(SimpleNamespace(data=json.dumps(job)), "V1Job")
        assert api.sanitize_for_serialization(read) == job, "the rest would be dropped"
        assert made["spec"]["parallelTrialCount"] <= made["spec"]["maxTrialCount"]

    def test_ranges_samplers_and_rules_in_katibs_words(self) -> None:
        space = {
            "x": {"kind": "float", "low": 1e-4, "high": 0.1, "log": True},
            "steps": {"kind": "int", "low": 2, "high": 8, "step": 2},
            "shape.snow": {"kind": "categorical", "choices": [True, False]},
        }
        asked = searching(space=space, pruner=MedianRule(startup_trials=4, warmup_epochs=2), seed=7, parallel=2)
        spec = katib.experiment("t", asked, work(), RemoteTask(name="trial", run="1"))["spec"]
        assert {item["name"]: item["feasibleSpace"] for item in spec["parameters"]} == {
            "shape.snow": {"list": ["true", "false"]},
            "steps": {"min": "2", "max": "8", "step": "2", "distribution": "uniform"},
            "x": {"min": "0.0001", "max": "0.1", "distribution": "logUniform"},
        }
        settings = {item["name"]: item["value"] for item in spec["algorithm"]["algorithmSettings"]}
        assert (spec["algorithm"]["algorithmName"], settings) == (
            "multivariate-tpe",
            {"random_state": "7", "n_startup_trials": "5"},
        )
        rules = {item["name"]: item["value"] for item in spec["earlyStopping"]["algorithmSettings"]}
        assert rules == {"min_trials_required": "4", "start_step": "3"}
        assert spec["objective"]["objectiveMetricName"] == "epoch_height", "the rule looks at what each epoch says"
        assert spec["objective"]["additionalMetricNames"] == ["height"]

    @pytest.mark.parametrize(
        ("knobs", "told"),
        [
            ({"pruner": Hyperband()}, "pruner.kind=hyperband: Katib's hyperband chooses the epochs"),
            ({"sampler": TpeSampler(multivariate=False, startup_trials=9)}, "sampler.startup_trials=9: Katib's tpe"),
            ({"space": {"x": {"kind": "categorical", "choices": [{"a": 1}]}}}, 'space.x: {"a": 1} can\'t be a choice'),
            ({"space": {"x": {"kind": "categorical", "choices": ['a"b']}}}, "can't be a choice in Katib"),
            ({"space": {"x": {"kind": "categorical", "choices": [1, "a"]}}}, "texts and numbers can't be choices"),
            (
                {"sampler": RandomSampler(), "space": {"x": {"kind": "float", "low": 0.5, "high": 9, "step": 2}}},
                "chooses multiples of step=2, and low=0.5 is none",
            ),
        ],
    )
    def test_what_katib_has_no_counterpart_for(self, knobs: dict[str, Any], told: str) -> None:
        with pytest.raises(UnsupportedError) as refused:
            check(searching(**knobs), warm_start=False)
        assert told in str(refused.value)
        assert "target.tuning.kind=task" in str(refused.value)

    def test_earlier_studies(self) -> None:
        with pytest.raises(UnsupportedError, match="warm_start: Katib can't learn from earlier studies"):
            check(searching(), warm_start=True)


@dataclass
class Stage:
    """A cluster with Katib, and tune steps that reach it."""

    kubernetes: FakeKubernetes
    start: Callable[[list[dict[str, str]]], FakeKatib]
    uris: tuple[str, ...]
    folder: Path
    steps: list[Path] = field(default_factory=list)

    def request(self, parameters: TuneParameters, run: str = "run1", **changes: Any) -> tuple[Path, TaskRequest]:
        here = self.folder / "records"
        here.mkdir(exist_ok=True)
        request = TaskRequest(
            name="tune",
            component=tune.spec.entry,
            parameters=parameters.model_dump(mode="json"),
            inputs={"records": (GivenArtifact(path=here, parts=self.uris),)},
            cluster=work(**changes),
            run=run,
        )
        self.steps.append(self.folder / f"step{len(self.steps)}")
        request.write(self.steps[-1])
        return self.steps[-1], request

    def tune(self, parameters: TuneParameters, **changes: Any) -> TaskResult:
        return attempt(*self.request(parameters, **changes))

    def study(self, name: str) -> Any:
        return json.loads((self.steps[-1] / "outputs" / "study" / name).read_text())

    def created(self) -> int:
        return sum(asked.verb == "create" and asked.resource == "experiments" for asked in self.kubernetes.requests)


@pytest.fixture
def stage(contracts: Path, s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """The records are two artifacts in a bucket, as preprocessing in shares leaves them."""
    s3.put("a/lift.txt", b"100")
    s3.put("b/other.txt", b"x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    with FakeKubernetes(contracts) as kubernetes, ExitStack() as stack:
        rules = [
            {"apiGroups": [right.resource.group], "resources": [right.resource.plural], "verbs": [right.verb]}
            for right in RIGHTS["experiment"]
        ]
        kubernetes.rules["system:serviceaccount:team:pipeline-runner"] = rules
        config = kubernetes.kubeconfig(tmp_path / "kubeconfig", account="pipeline-runner", namespace="team")
        monkeypatch.setenv("KUBECONFIG", str(config))

        def start(suggestions: list[dict[str, str]]) -> FakeKatib:
            return stack.enter_context(FakeKatib(kubernetes, tmp_path, suggestions))

        yield Stage(kubernetes, start, (s3.uri("a"), s3.uri("b")), tmp_path)


class TestSearch:
    def test_the_study_is_like_that_of_a_search_in_one_pod(self, stage: Stage) -> None:
        space = {
            **SPACE,
            "steps": {"kind": "int", "low": 1, "high": 9},
            "shape.form": {"kind": "categorical", "choices": ["round", "flat"]},
        }
        chosen = [("0.0", "2", "flat"), ("2.5", "3.0", "round"), ("5.0", "9", "round")]
        running = stage.start([{"x": x, "steps": steps, "shape.form": form} for x, steps, form in chosen])
        parameters = searching(space=space, parallel=2)
        ran = stage.tune(parameters)
        assert ran.metrics == {"objective": 100.75, "trials": 3.0}
        assert ran.outputs["study"].metadata == {"trials": 3, "best": 100.75}
        best = {"parameters": {"shape.form": "round", "steps": 3, "x": 2.5}, "value": 100.75}
        assert stage.study("best.json") == best
        trials = stage.study("trials.json")["trials"]
        assert sorted(trial["value"] for trial in trials) == [91.0, 97.0, 100.75]
        assert all(trial["seconds"] > 0 for trial in trials)
        assert running.most_at_once == 2
        later = Search(stage.folder / "later.db", parameters)
        assert later.warm_up([stage.steps[-1] / "outputs" / "study"]) == 3, "later searches learn from it"

        stage.tune(parameters)
        assert (stage.study("best.json"), stage.study("trials.json")["trials"]) == (best, trials)
        assert stage.created() == 1, "a step that runs again finds its Experiment"

    def test_a_bad_trial_is_ended_early(self, stage: Stage) -> None:
        stage.start([{"x": "3.0"}, {"x": "-9.0"}])
        base = {"epochs": 20, "seconds": 4.0}
        pruner = MedianRule(startup_trials=1, warmup_epochs=0)
        ran = stage.tune(searching(trials=2, trial=base, pruner=pruner))
        assert ran.metrics["objective"] == 101.0
        states = [(trial["state"], trial["value"]) for trial in stage.study("trials.json")["trials"]]
        assert states == [("complete", 101.0), ("pruned", None)]

    def test_if_no_trial_finishes_the_first_reason_is_told(self, stage: Stage) -> None:
        stage.start([{"x": "1.0"}, {"x": "2.0"}])
        told = r"none of the 2 trials finished: trial tune-run1-\w+-00000000 \(x=1.0\): it broke"
        with pytest.raises(TaskFailedError, match=told):
            stage.tune(searching(trials=2, trial={"fault": "error"}))

    def test_a_users_mistake_ends_the_search(self, stage: Stage) -> None:
        stage.start([{"x": "1.0"}] * 3)
        with pytest.raises(UserError, match="this can never work"):
            stage.tune(searching(trial={"fault": "user"}))
        assert stage.kubernetes.objects(EXPERIMENTS) == []

    def test_a_step_that_is_stopped_deletes_its_experiment(self, stage: Stage) -> None:
        running = stage.start([{"x": "1.0"}] * 3)
        folder, _ = stage.request(searching(trial={"seconds": 60}))
        step = launch(folder)
        until(lambda: running.most_at_once)
        step.send_signal(signal.SIGTERM)
        step.wait(30)
        assert step.stdin is not None
        step.stdin.close()
        failure = read_failure(folder)
        assert failure is not None
        assert "SIGTERM" in failure.message
        assert stage.kubernetes.objects(EXPERIMENTS) == []

    def test_a_step_that_is_killed_goes_on(self, stage: Stage) -> None:
        running = stage.start([{"x": "1.0"}, {"x": "3.0"}])
        parameters = searching(trials=2, trial={"seconds": 1})
        folder, _ = stage.request(parameters)
        step = launch(folder)
        until(lambda: running.most_at_once)
        step.kill()
        step.wait()
        assert step.stdin is not None
        step.stdin.close()
        assert stage.tune(parameters).metrics["objective"] == 101.0
        assert stage.created() == 1

    def test_records_that_only_this_machine_has(self, stage: Stage) -> None:
        stage.uris = ("/data/records",)
        with pytest.raises(ConfigError, match="records: /data/records is on this machine only"):
            stage.tune(searching())
