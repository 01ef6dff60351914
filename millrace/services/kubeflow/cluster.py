"""What a cluster must have for a pipeline: the kinds of work that its steps create, and permission to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from millrace.compilers.kubeflow.pods import cluster_work
from millrace.compilers.kubeflow.rbac import default_account, needed_rules
from millrace.errors import MillraceError
from millrace.services.finding import Finding
from millrace.specs import PipelineSpec
from millrace.targets.kubeflow import Kubeflow

__all__ = ["examine_cluster"]

_TIMEOUT = (5, 30)


class _Kind(NamedTuple):
    group: str
    version: str
    resource: str
    install: str


_KINDS = {
    "trainjob": _Kind(
        "trainer.kubeflow.org",
        "v1alpha1",
        "trainjobs",
        "kubectl apply --server-side -k 'https://github.com/kubeflow/trainer.git/manifests/overlays/manager?ref=v2.3.0'",
    ),
    "mpijob": _Kind(
        "kubeflow.org",
        "v2beta1",
        "mpijobs",
        "kubectl apply --server-side -k 'https://github.com/kubeflow/mpi-operator.git/manifests/overlays/standalone"
        "?ref=v0.8.2'",
    ),
    "inferenceservice": _Kind(
        "serving.kserve.io",
        "v1beta1",
        "inferenceservices",
        "kubectl apply --server-side -f https://github.com/kserve/kserve/releases/download/v0.20.0/kserve.yaml",
    ),
    "experiment": _Kind(
        "kubeflow.org",
        "v1beta1",
        "experiments",
        "kubectl apply -k 'https://github.com/kubeflow/katib.git/manifests/v1beta1/installs/katib-standalone?ref=v0.19.0'",
    ),
}


def examine_cluster(spec: PipelineSpec, target: Kubeflow) -> Iterator[Finding]:
    """Look at the cluster of the kube context, or say that there is none."""
    try:
        needed = _needed(spec, target)
    except MillraceError as error:
        yield Finding(
            False, f"this pipeline can't be compiled: {error}", f"millrace compile pipeline={spec.name} target=kubeflow"
        )
        return
    try:
        from kubernetes import client, config
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError:
        yield Finding(None, "cluster: not looked at without the packages above")
        return
    try:
        api, where = _client(client, config, target)
    except (config.ConfigException, OSError) as error:
        mend = "kubectl config get-contexts  # then target.api.kube_context=NAME"
        if target.api.kube_context:
            yield Finding(False, f"kube context {target.api.kube_context}: {error}", mend)
        else:
            yield Finding(None, f"cluster: not looked at, there is no kube context; needed there: {_list(needed)}")
        return
    try:
        server: Any = client.VersionApi(api).get_code(_request_timeout=_TIMEOUT)
        yield Finding(True, f"Kubernetes {server.git_version} at {where}")
        for name, kind in _KINDS.items():
            yield _kind(client, api, name, kind, name in needed)
        if "trainjob" in needed:
            yield _runtime(client, api, target)
        yield from _permissions(client, api, spec, target)
    except HTTPError as error:
        reason = str(getattr(error, "reason", None) or error).rpartition(": ")[2]
        yield Finding(False, f"cluster at {where} can't be reached: {reason}", "kubectl cluster-info")
    except client.ApiException as error:
        advice = "log in again" if error.status == 401 else "ask who runs the cluster for access"
        yield Finding(
            False, f"cluster at {where} answers {error.status} {error.reason}", f"{advice}; kubectl auth whoami"
        )


def _needed(spec: PipelineSpec, target: Kubeflow) -> list[str]:
    """Kinds of work that the pipeline's steps create in the cluster."""
    works = (cluster_work(task, spec.component_of(task), target) for task in spec.tasks)
    return list(dict.fromkeys(work.kind for work in works if work is not None))


def _list(kinds: Sequence[str]) -> str:
    return ", ".join(f"{_KINDS[kind].resource}.{_KINDS[kind].group}" for kind in kinds) or "pods only"


def _client(client: Any, config: Any, target: Kubeflow) -> tuple[Any, str]:
    configuration = client.Configuration()
    configuration.retries = 1
    context = target.api.kube_context
    if context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(client_configuration=configuration)
    else:
        file = os.environ.get("KUBECONFIG")  # the package itself reads it once, when it is imported
        config.load_kube_config(file, client_configuration=configuration, context=context)
    configuration.retries = 1
    return client.ApiClient(configuration), str(configuration.host)


def _kind(client: Any, api: Any, name: str, kind: _Kind, needed: bool) -> Finding:
    """Whether the cluster serves a kind of work, asked by discovery, which everybody may."""
    what = f"{kind.resource}.{kind.group}"
    for_this = "this pipeline needs it" if needed else "this pipeline does not need it"
    served = [version["version"] for version in _get(client, api, f"/apis/{kind.group}").get("versions", [])]
    listed = _get(client, api, f"/apis/{kind.group}/{kind.version}").get("resources", [])
    if any(item["name"] == kind.resource for item in listed):
        return Finding(True, f"{what} {kind.version} ({for_this})")
    there = f"only {', '.join(served)} of the group is" if served else "nothing of its group is"
    return Finding(False if needed else None, f"{what} {kind.version}: {there} installed; {for_this}", kind.install)


def _runtime(client: Any, api: Any, target: Kubeflow) -> Finding:
    name, namespace = target.training.runtime, target.namespace
    group = "/apis/trainer.kubeflow.org/v1alpha1"
    if target.training.runtime_kind == "TrainingRuntime":
        path, where = f"{group}/namespaces/{namespace}/trainingruntimes/{name}", f" in {namespace}"
        mend = f"kubectl apply -n {namespace} -f containers/train/runtime.yaml"
    else:
        path, where = f"{group}/clustertrainingruntimes/{name}", ""
        mend = "kubectl get clustertrainingruntimes  # then target.training.runtime=NAME"
    return Finding(bool(_get(client, api, path)), f"{target.training.runtime_kind} {name}{where}", mend)


def _get(client: Any, api: Any, path: str) -> Mapping[str, Any]:
    """What the API server says about a path; nothing when it has no such thing."""
    try:
        answer = api.call_api(
            path,
            "GET",
            response_type="object",
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=_TIMEOUT,
        )
    except client.ApiException as error:
        if error.status == 404:
            return {}
        raise
    return answer if isinstance(answer, Mapping) else {}


def _permissions(client: Any, api: Any, spec: PipelineSpec, target: Kubeflow) -> Iterator[Finding]:
    """What `millrace rbac` grants: asked for the runs' service account, or for whoever asks where that is refused."""
    account = target.service_account or default_account(target)
    user = f"system:serviceaccount:{target.namespace}:{account}"
    rules = needed_rules(spec, target)
    missing, asked = [], f"service account {account}"
    for rule in rules:
        for group, resource, verb in _wanted(rule):
            name, _, part = resource.partition("/")
            attributes = {
                "namespace": target.namespace,
                "group": group,
                "resource": name,
                "subresource": part,
                "verb": verb,
            }
            allowed = _allowed(client, api, attributes, user)
            if allowed is None:
                asked, allowed = "you", bool(_allowed(client, api, attributes, None))
            if not allowed:
                missing.append(f"{verb} {resource}{f'.{group}' if group else ''}")
    mend = f"millrace rbac pipeline={spec.name} target=kubeflow | kubectl apply -f -"
    if rules:
        told = f"permissions in {target.namespace}, asked for {asked}"
        yield Finding(not missing, f"{told}: no {', '.join(missing)}" if missing else told, mend)


def _wanted(rule: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str, str]]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                yield group, resource, verb


def _allowed(client: Any, api: Any, attributes: Mapping[str, str], user: str | None) -> bool | None:
    """Whether a user, or whoever asks, may; None when that must not be asked."""
    service = client.AuthorizationV1Api(api)
    body: dict[str, Any] = {"spec": {"resourceAttributes": dict(attributes)}}
    try:
        if user is None:
            answer = service.create_self_subject_access_review(body, _request_timeout=_TIMEOUT)
        else:
            body["spec"] |= {"user": user, "groups": ["system:serviceaccounts", "system:authenticated"]}
            answer = service.create_subject_access_review(body, _request_timeout=_TIMEOUT)
    except client.ApiException as error:
        if error.status == 403 and user is not None:
            return None
        raise
    return bool(answer.status.allowed)
