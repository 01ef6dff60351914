"""Reading compiled documents in tests: as kfp's own protobuf messages do, and by following every reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import yaml
from google.protobuf import json_format
from kfp import components
from kfp.kubernetes import kubernetes_executor_config_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from millrace.compilers.kubeflow import compile_pipeline
from millrace.compilers.kubeflow.check import check_document
from millrace.specs import PipelineSpec
from millrace.targets.kubeflow import Kubeflow

PIPELINE: Any = pipeline_spec_pb2
KUBERNETES: Any = kubernetes_executor_config_pb2


@dataclass
class Read:
    """A document that was parsed strictly."""

    text: str
    spec: dict[str, Any]
    platform: dict[str, Any]

    def task(self, name: str) -> dict[str, Any]:
        """A task, wherever it is."""
        return next(tasks[name] for _, tasks in self.dags() if name in tasks)

    def component(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["components"][f"comp-{name}"]
        return found

    def container(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        return found

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.platform["deploymentSpec"]["executors"][f"exec-{name}"]
        return found

    def argument(self, task: str, flag: str) -> list[str]:
        words: list[str] = self.container(task)["args"]
        return [value for word, value in pairwise(words) if word == flag]

    def dags(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """Each component that holds tasks, and its tasks."""
        for component in (self.spec["root"], *self.spec["components"].values()):
            if "dag" in component:
                yield component, component["dag"]["tasks"]

    def above(self, name: str) -> list[str]:
        """The conditions that a task stands under, the outermost first, and `loop` for loops."""
        for component, tasks in self.dags():
            if name in tasks:
                place = next(
                    (
                        (group, item)
                        for _, others in self.dags()
                        for group, item in others.items()
                        if self.spec["components"][item["componentRef"]["name"]] is component
                    ),
                    None,
                )
                if place is None:
                    return []
                group, item = place
                own = "loop" if "parameterIterator" in item else item["triggerPolicy"]["condition"]
                return [*self.above(group), own]
        raise KeyError(name)


def read(text: str) -> Read:
    """Parse a document as strictly as the API server, load it with kfp, and follow its references."""
    documents = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    message = json_format.ParseDict(documents[0], PIPELINE.PipelineSpec())
    deployment = json_format.MessageToDict(message.deployment_spec)
    json_format.ParseDict(deployment, PIPELINE.PipelineDeploymentConfig())
    platform: dict[str, Any] = {}
    for document in documents[1:]:
        json_format.ParseDict(document, PIPELINE.PlatformSpec())
        platform = document["platforms"]["kubernetes"]
        for executor in platform["deploymentSpec"]["executors"].values():
            json_format.ParseDict(executor, KUBERNETES.KubernetesExecutorConfig())
    components.load_component_from_text(text)
    found = Read(text, documents[0], platform)
    follow(found)
    return found


def compiled(spec: PipelineSpec, target: Kubeflow | None = None) -> Read:
    """Compile a pipeline, check it as `millrace compile` does, and read it."""
    target = target or Kubeflow()
    text = compile_pipeline(spec, target)
    assert [finding for finding in check_document(text, target.compat) if finding.severity == "error"] == []
    return read(text)


def follow(document: Read) -> None:
    """Check that each input of each task is filled, by something that there is and that has its form."""
    for component, tasks in document.dags():
        for task in tasks.values():
            called = document.spec["components"][task["componentRef"]["name"]]
            wanted, given = called.get("inputDefinitions", {}), task.get("inputs", {})
            filled = {*given.get("parameters", {}), *given.get("artifacts", {})}
            item = task.get("parameterIterator", {}).get("itemInput")
            all_inputs = {**wanted.get("parameters", {}), **wanted.get("artifacts", {})}
            assert filled <= all_inputs.keys()
            assert all(name == item or all_inputs[name].get("isOptional") for name in all_inputs.keys() - filled)
            for name, source in given.get("artifacts", {}).items():
                made = _source(document, component, tasks, source, "artifacts")
                assert made.get("isArtifactList", False) == wanted["artifacts"][name].get("isArtifactList", False)
                assert made["artifactType"] == wanted["artifacts"][name]["artifactType"]
            for name, source in given.get("parameters", {}).items():
                if "runtimeValue" not in source:
                    made = _source(document, component, tasks, source, "parameters")
                    assert made["parameterType"] == wanted["parameters"][name]["parameterType"]
            assert set(task.get("dependentTasks", ())) <= tasks.keys()
        for selectors in component["dag"].get("outputs", {}).get("artifacts", {}).values():
            for selector in selectors["artifactSelectors"]:
                inner = document.spec["components"][tasks[selector["producerSubtask"]]["componentRef"]["name"]]
                assert selector["outputArtifactKey"] in inner["outputDefinitions"]["artifacts"]


def _source(
    document: Read, component: dict[str, Any], tasks: dict[str, Any], source: dict[str, Any], kind: str
) -> dict[str, Any]:
    """The definition of what an input comes from."""
    one = kind.removesuffix("s").capitalize()
    if outer := source.get(f"componentInput{one}"):
        found: dict[str, Any] = component["inputDefinitions"][kind][outer]
        return found
    made = source[f"taskOutput{one}"]
    producer = document.spec["components"][tasks[made["producerTask"]]["componentRef"]["name"]]
    result: dict[str, Any] = producer["outputDefinitions"][kind][made[f"output{one}Key"]]
    return result
