"""Least rights: the Role that the steps of a pipeline need in their namespace, and nothing more."""

from __future__ import annotations

from typing import Any

import yaml

from millrace.compilers.kubeflow.pods import cluster_work
from millrace.runtime.cluster.rights import RIGHTS, Right
from millrace.specs import PipelineSpec
from millrace.targets.kubeflow import Kubeflow

__all__ = ["default_account", "manifests", "needed_rights", "needed_rules"]

_BACKEND_RULES: tuple[dict[str, Any], ...] = (
    {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]},
    {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["kfp-launcher"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["mlpipeline-minio-artifact"], "verbs": ["get"]},
)
"""What the backend's own containers need in every step: Argo's executor reports the step's state, Kubeflow's
driver and launcher read where artifacts are kept and the credentials of that store."""


def needed_rights(spec: PipelineSpec, target: Kubeflow) -> dict[str, tuple[Right, ...]]:
    """What each task that talks to the Kubernetes API must be allowed to do; tasks that do not are left out."""
    found: dict[str, tuple[Right, ...]] = {}
    for task in spec.tasks:
        work = cluster_work(task, spec.component_of(task), target)
        if work is not None:
            found[task.name] = RIGHTS[work.kind]
    return found


def needed_rules(spec: PipelineSpec, target: Kubeflow) -> list[dict[str, Any]]:
    """The rules of a Role for the tasks of a pipeline, as Kubernetes writes them; empty when they need none."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for right in {right for rights in needed_rights(spec, target).values() for right in rights}:
        resource = f"{right.resource.plural}/{right.subresource}" if right.subresource else right.resource.plural
        verbs.setdefault((right.resource.group, resource), set()).add(right.verb)
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": sorted(names)}
        for (group, resource), names in sorted(verbs.items())
    ]


def default_account(target: Kubeflow) -> str:
    """The account that the backend gives to runs: that of the profile where there are profiles."""
    return "default-editor" if target.api.namespace else "pipeline-runner"


def manifests(spec: PipelineSpec, target: Kubeflow) -> str:
    """ServiceAccount, Role and RoleBinding as YAML for `kubectl apply -f -`.

    With an account of the target's own, all that its runs need is in them. Without one, only what the
    pipeline needs beyond the backend's own account, which is there already.
    """
    own = target.service_account
    account = own or default_account(target)
    rules = needed_rules(spec, target)
    lines = [f"# What the steps of pipeline {spec.name} need of the Kubernetes API, in namespace {target.namespace}."]
    lines += [f"# {task}: {_told(rights)}" for task, rights in needed_rights(spec, target).items()]
    if not rules:
        lines.append("# No step talks to the API: nothing.")
    if own:
        lines.append("# Argo's executor and Kubeflow's launcher, in every step, need the rules with resourceNames and")
        lines.append("# workflowtaskresults; where the launcher's store has another Secret, name that one.")
    else:
        lines.append(f"# Runs have the backend's account {account}, which has what the backend itself needs. For an")
        lines.append("# account with no other rights set target.service_account=NAME, here and when you compile.")
    text = "".join(f"{line}\n" for line in lines)
    documents = _documents(spec, target, account, [*(_BACKEND_RULES if own else ()), *rules], own=own is not None)
    return text + "".join(f"---\n{_dumped(document)}" for document in documents)


def _told(rights: tuple[Right, ...]) -> str:
    verbs: dict[str, list[str]] = {}
    for right in rights:
        name = f"{right.resource.plural}/{right.subresource}" if right.subresource else right.resource.plural
        verbs.setdefault(name, []).append(right.verb)
    return "; ".join(f"{', '.join(names)} {name}" for name, names in verbs.items())


def _documents(
    spec: PipelineSpec, target: Kubeflow, account: str, rules: list[dict[str, Any]], *, own: bool
) -> list[dict[str, Any]]:
    if not rules:
        return []
    group = "rbac.authorization.k8s.io"
    name = account if own else f"{account}-{spec.name.replace('_', '-')}"
    labels = {"app.kubernetes.io/managed-by": "millrace"}
    metadata = {"name": name, "namespace": target.namespace, "labels": labels}
    accounts: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}]
    return [
        *(accounts if own else ()),
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": target.namespace}],
        },
    ]


class _Plain(yaml.SafeDumper):
    """Without anchors: people read and copy this."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _dumped(document: dict[str, Any]) -> str:
    return str(yaml.dump(document, Dumper=_Plain, sort_keys=False, width=120))
