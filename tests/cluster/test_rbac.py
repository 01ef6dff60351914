"""`millrace rbac`: what it prints is enough, and nothing of it is too much."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace.compilers.kubeflow import compile_pipeline
from millrace.compilers.kubeflow.rbac import manifests, needed_rules
from millrace.errors import ConfigError
from millrace.runtime.cluster.api import connect
from millrace.runtime.cluster.rights import check_rights
from millrace.specs import Distribution, PipelineConfig, pipeline
from millrace.targets.kubeflow import ClusterWork, Kubeflow, Training
from tests.cluster.conftest import NAMESPACE, Step
from tests.cluster.fake_kubernetes import FakeKubernetes
from tests.cluster.operators import PROJECT, TRAIN_JOBS, Operator
from tests.cluster.ranks import RanksParameters, ranks
from tests.toys import Play, WriteParameters, play, write

ACCOUNT = f"system:serviceaccount:{NAMESPACE}:runner"


class Together(PipelineConfig):
    write: WriteParameters = WriteParameters()
    ranks: RanksParameters = RanksParameters()


@pipeline
def together(config: Together) -> None:
    """Words, and their lengths summed on two hosts."""
    written = write(config.write)
    two = ranks.with_options(distribution=Distribution(mode="ranks", hosts=2))
    two(config.ranks, words=written.words)


def target(**changes: Any) -> Kubeflow:
    return Kubeflow(namespace=NAMESPACE, service_account="runner", **changes)


def handed_over(document: str) -> ClusterWork:
    """The cluster work of a compiled document's only step that has any."""
    executors = next(yaml.safe_load_all(document))["deploymentSpec"]["executors"]
    words = [executor["container"]["args"] for executor in executors.values()]
    [given] = [args[args.index("--cluster") + 1] for args in words if "--cluster" in args]
    return ClusterWork.model_validate_json(given)


def test_a_run_needs_all_that_is_printed_and_no_more(
    server: FakeKubernetes, operator: Operator, step: Step, tmp_path: Path
) -> None:
    chosen = target(pod=step.work.pod, training=Training(poll_seconds=0.2))
    spec = together.compose(Together())
    server.apply(manifests(spec, chosen))
    config = server.kubeconfig(tmp_path / "runner", account="runner", namespace=NAMESPACE)
    work = handed_over(compile_pipeline(spec, chosen))
    ran = replace(step, work=work, task="ranks", environment={"KUBECONFIG": str(config)})
    code, out = ran.run()
    assert code == 0, out
    used = {(request.verb, request.resource) for request in server.requests if request.account == ACCOUNT}
    granted = {
        (verb, name) for rule in needed_rules(spec, chosen) for name in rule["resources"] for verb in rule["verbs"]
    }
    assert used == granted
    pods = [item for _, event, name, item in server.events if (event, name) == ("ADDED", "pods")]
    assert [pod["spec"]["serviceAccountName"] for pod in pods] == ["runner", "runner"]


@pytest.mark.parametrize("kind", ["trainjob", "mpijob"])
def test_each_right_that_is_missing_is_named_before_anything_is_made(
    server: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    spec = together.compose(Together())
    chosen = target(training=Training(kind=kind))
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "c", account="runner", namespace=NAMESPACE)))
    cluster = connect(NAMESPACE)
    rules = needed_rules(spec, chosen)
    server.rules[ACCOUNT] = rules
    check_rights(cluster, kind)
    for rule in rules:
        for verb in rule["verbs"]:
            less = {**rule, "verbs": [other for other in rule["verbs"] if other != verb]}
            server.rules[ACCOUNT] = [less if other is rule else other for other in rules]
            with pytest.raises(ConfigError, match=rf"may not {verb} {rule['resources'][0].partition('/')[0]}") as told:
                check_rights(cluster, kind)
            assert "millrace rbac" in str(told.value)


def test_a_step_without_a_right_makes_no_job(server: FakeKubernetes, step: Step, tmp_path: Path) -> None:
    spec = together.compose(Together())
    rules = [rule for rule in needed_rules(spec, target()) if rule["resources"] != ["pods/log"]]
    server.rules[ACCOUNT] = rules
    config = server.kubeconfig(tmp_path / "runner", account="runner", namespace=NAMESPACE)
    code, out = replace(step, environment={"KUBECONFIG": str(config)}).run()
    assert code == 2
    assert "this step's service account may not get pods/log in namespace 'team'" in out
    assert server.objects(TRAIN_JOBS) == []


def test_the_same_pipeline_gives_the_same_bytes() -> None:
    words = ["rbac", "pipeline=digits", "target=kubeflow", "target.service_account=runner"]
    first, second = (
        subprocess.run(
            [sys.executable, "-m", "millrace", *words],
            capture_output=True,
            check=True,
            cwd=PROJECT,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin"},
        ).stdout
        for seed in ("1", "2")
    )
    assert first == second
    kinds = [document["kind"] for document in yaml.safe_load_all(first) if document]
    assert kinds == ["ServiceAccount", "Role", "RoleBinding"]


def test_an_account_of_its_own_gets_what_the_backend_needs_in_every_step() -> None:
    spec = play.compose(Play())
    _, role, binding = yaml.safe_load_all(manifests(spec, target()))
    assert [rule["resources"] for rule in role["rules"]] == [["workflowtaskresults"], ["configmaps"], ["secrets"]]
    assert all("*" not in json.dumps(rule) for rule in role["rules"])
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "runner", "namespace": NAMESPACE}]


def test_a_pipeline_that_does_not_talk_to_the_api_needs_nothing() -> None:
    text = manifests(play.compose(Play()), Kubeflow())
    assert "# No step talks to the API: nothing." in text
    assert list(yaml.safe_load_all(text)) in ([], [None])


def test_without_an_account_of_its_own_the_backends_gets_what_is_missing() -> None:
    spec = together.compose(Together())
    role, binding = yaml.safe_load_all(manifests(spec, Kubeflow(namespace=NAMESPACE)))
    assert role["rules"] == needed_rules(spec, target())
    assert binding["subjects"][0]["name"] == "pipeline-runner"
    assert role["metadata"]["name"] == "pipeline-runner-together"
