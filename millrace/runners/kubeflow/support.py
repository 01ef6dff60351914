"""What a rehearsal needs, can't do, or does otherwise than a cluster: said before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.document import Path as FieldPath
from millrace.compilers.kubeflow.document import shown
from millrace.compilers.kubeflow.view import View
from millrace.errors import ConfigError, DataError
from millrace.runners.kubeflow.conditions import check_expression
from millrace.runners.kubeflow.graph import dependencies, is_exit_task
from millrace.runners.kubeflow.pods import Vault, named_values, where
from millrace.runners.kubeflow.volumes import VOLUME_IMAGES

__all__ = ["images_of", "missing_values", "notes", "read_vault", "unsupported"]

_IGNORED: Mapping[str, str] = {
    "nodeSelector": "node selectors",
    "tolerations": "tolerations",
    "nodeAffinity": "node affinity",
    "podAffinity": "pod affinity",
    "podMetadata": "labels and annotations",
    "imagePullSecret": "image pull secrets",
    "imagePullPolicy": "image pull policies",
}


def unsupported(view: View) -> Iterator[Finding]:
    """Parts of a document that a rehearsal can't execute."""
    for label, executor in view.executors.items():
        yield from _executor(executor, ("deploymentSpec", "executors", label))
    for label, settings in view.pods.items():
        yield from _pod(settings, ("platforms", "kubernetes", "deploymentSpec", "executors", label))
    for name, artifact in view.components["root"].get("inputDefinitions", {}).get("artifacts", {}).items():
        if not artifact.get("isOptional"):
            path = shown(("root", "inputDefinitions", "artifacts", name))
            yield Finding("error", path, "a run can't be given artifacts: take an importer")
    for use in view.uses:
        yield from _task(view, use.owner, use.task, use.path)


def _executor(executor: Mapping[str, Any], path: FieldPath) -> Iterator[Finding]:
    for kind in executor.keys() - {"container", "importer"}:
        yield Finding("error", shown((*path, kind)), "the backend does not execute this kind")
    if "--cluster" in executor.get("container", {}).get("args", ()):
        yield Finding(
            "error",
            shown((*path, "container", "args")),
            "this step hands its work to a service of the cluster, which is not here: rehearse the pipeline instead of "
            "the document, and the work is done in the step (millrace rehearse pipeline=NAME target=kubeflow)",
        )
    importer = executor.get("importer", {})
    if importer.get("downloadToWorkspace"):
        yield Finding("error", shown((*path, "importer")), "downloads into the workspace are not rehearsed")
    if str(importer.get("artifactUri", {}).get("constant", "")).startswith("oci://"):
        yield Finding("error", shown((*path, "importer")), "models in images (oci://) are not rehearsed")


def _pod(settings: Mapping[str, Any], path: FieldPath) -> Iterator[Finding]:
    if settings.get("initContainers"):
        yield Finding("error", shown((*path, "initContainers")), "init containers are not rehearsed")
    for index, item in enumerate(settings.get("pvcMount", [])):
        if item.get("subPath"):
            yield Finding("error", shown((*path, "pvcMount", index, "subPath")), "subPath is not rehearsed")


def _task(view: View, owner: str, task: Mapping[str, Any], path: FieldPath) -> Iterator[Finding]:
    if "artifactIterator" in task:
        yield Finding("error", shown((*path, "artifactIterator")), "the backend does not loop over artifacts")
    condition = task.get("triggerPolicy", {}).get("condition")
    if condition and (problem := check_expression(condition)):
        yield Finding("error", shown((*path, "triggerPolicy", "condition")), problem)
    for key, source in task.get("inputs", {}).get("parameters", {}).items():
        selector = source.get("parameterExpressionSelector")
        if selector and (problem := check_expression(selector)):
            yield Finding("error", shown((*path, "inputs", "parameters", key)), problem)
    tasks = view.components[owner]["dag"]["tasks"]
    for other in sorted(dependencies(task)):
        if other in tasks and is_exit_task(tasks[other]):
            yield Finding(
                "error",
                shown((*path, "dependentTasks")),
                f"the backend lets no task wait for {other}: it runs after others however they end",
            )


def images_of(view: View) -> set[str]:
    """Images that the document names as constants."""
    images = {container.spec.get("image", "") for container in view.containers}
    return {image for image in images if image and "{{" not in image and image not in VOLUME_IMAGES}


def missing_values(view: View, secrets: Vault, config_maps: Vault) -> str:
    """Which Secrets, ConfigMaps or keys of them nobody has given."""
    lines = []
    for container in view.containers:
        for what, name, keys in named_values(container.pod):
            vault = secrets if what == "Secret" else config_maps
            if name not in vault:
                lines.append(f"{container.label} needs the {what} {name!r}: {where(what)}")
            lines += [
                f"{container.label} needs the key {key!r} of the {what} {name!r}: {where(what)}"
                for key in keys
                if name in vault and key not in vault[name]
            ]
    return "\n".join(dict.fromkeys(lines))


def read_vault(file: Path | None, key: str) -> Vault:
    """Values of Secrets or ConfigMaps from a person's own file.

    Raises:
        ConfigError: When there is no such file.
        DataError: When it is no mapping of names to mappings of texts.
    """
    if file is None:
        return {}
    import yaml

    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigError(f"{key}: {file}: {error.strerror}") from None
    except yaml.YAMLError:
        raise DataError(f"{key}: {file} is no YAML") from None
    if not isinstance(content, dict) or not all(isinstance(item, dict) for item in content.values()):
        raise DataError(f"{key}: {file} must hold `NAME: {{KEY: VALUE}}`")
    return {str(name): {str(k): str(v) for k, v in item.items()} for name, item in content.items()}


def notes(view: View, cpus: float) -> list[str]:
    """What is not rehearsed as the cluster would do it."""
    found: list[str] = []
    for field, told in _IGNORED.items():
        if any(field in settings for settings in view.pods.values()):
            found.append(f"{told} have no effect here")
    for container in view.containers:
        resources = container.spec.get("resources", {})
        if "accelerator" in resources:
            found.append(f"{container.label}: no GPU is given to the container")
        limit = resources.get("cpuLimit")
        if isinstance(limit, int | float) and limit > cpus:
            found.append(f"{container.label}: {limit:g} CPUs are asked for, this machine has {cpus:g}")
    if any(
        "securityContext" in settings and settings["securityContext"].get("runAsNonRoot")
        for settings in view.pods.values()
    ):
        found.append("runAsNonRoot is not enforced")
    if view.config.get("workspace") or any(container.pod.get("pvcMount") for container in view.containers):
        found.append("PersistentVolumeClaims and the workspace are Docker volumes that start empty and end with this")
    found += _surprises(view)
    return list(dict.fromkeys(found))


def _surprises(view: View) -> Iterator[str]:
    """What the backend does otherwise than kfp's own words make one expect."""
    for use in view.uses:
        inputs = view.components[use.owner].get("inputDefinitions", {}).get("artifacts", {})
        for name, source in use.task.get("inputs", {}).get("artifacts", {}).items():
            inner = source.get("componentInputArtifact", "")
            if inputs.get(inner, {}).get("isOptional"):
                path = shown((*use.path, "inputs", "artifacts", name))
                yield f"{path}: the backend fails here when nobody gives {inner!r} to {use.owner}; a rehearsal goes on"
        if "parameterIterator" in use.task and _gives_a_loop(view, use.component):
            yield f"{shown(use.path)}: what a loop in a loop gives is one flat list, not a list of lists"


def _gives_a_loop(view: View, component: Mapping[str, Any]) -> bool:
    dag = component.get("dag", {})
    outputs = dag.get("outputs", {})
    producers = {
        item.get("valueFromParameter", {}).get("producerSubtask") for item in outputs.get("parameters", {}).values()
    } | {
        selector["producerSubtask"]
        for item in outputs.get("artifacts", {}).values()
        for selector in item["artifactSelectors"]
    }
    return any("parameterIterator" in dag["tasks"].get(name, {}) for name in producers if name)
