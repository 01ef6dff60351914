"""What the pods of cluster work get of the target's settings, as fields of Kubernetes' PodSpec and Container."""

from __future__ import annotations

import math
from typing import Any

from millrace.specs import Resources
from millrace.targets.kubeflow import ClusterWork, PodSettings

__all__ = ["container_fields", "pod_fields", "quantities"]

Object = dict[str, Any]


def pod_fields(work: ClusterWork) -> Object:
    """Account, placement, pull secrets and volumes; what is not set is left out."""
    pod = work.pod
    tolerations = [
        _set(
            key=item.key,
            operator=item.operator,
            value=item.value,
            effect=item.effect,
            tolerationSeconds=item.toleration_seconds,
        )
        for item in pod.tolerations
    ]
    return _set(
        serviceAccountName=work.service_account,
        nodeSelector=dict(sorted(pod.node_selector.items())) or None,
        tolerations=tolerations or None,
        imagePullSecrets=[{"name": name} for name in pod.image_pull_secrets] or None,
        volumes=[volume for volume, _ in _volumes(pod)] or None,
    )


def container_fields(work: ClusterWork) -> Object:
    """Resources, variables, mounts and pull policy; what is not set is left out."""
    return _set(
        resources=quantities(work.resources, work.pod.accelerator),
        env=_variables(work.pod) or None,
        volumeMounts=[mount for _, mount in _volumes(work.pod)] or None,
        imagePullPolicy=work.pod.image_pull_policy,
    )


def quantities(resources: Resources, accelerator: str) -> Object:
    """Requests and limits, which are equal: what a pod asked for is its own."""
    milli = math.ceil(resources.cpus * 1000)
    amounts = {
        "cpu": str(milli // 1000) if milli % 1000 == 0 else f"{milli}m",
        "memory": f"{math.ceil(resources.memory_gib * 1024)}Mi",
        **({accelerator: str(resources.gpus)} if resources.gpus else {}),
    }
    return {"requests": amounts, "limits": dict(amounts)}


def _variables(pod: PodSettings) -> list[Object]:
    plain = [{"name": name, "value": value} for name, value in sorted(pod.environment.items())]
    secret = [
        {"name": item.variable, "valueFrom": {"secretKeyRef": _reference(item.secret, item.key, item.optional)}}
        for item in pod.secret_variables
    ]
    config = [
        {"name": item.variable, "valueFrom": {"configMapKeyRef": _reference(item.config_map, item.key, item.optional)}}
        for item in pod.config_map_variables
    ]
    return [*plain, *secret, *config]


def _reference(name: str, key: str, optional: bool) -> Object:
    return {"name": name, "key": key, **({"optional": True} if optional else {})}


def _volumes(pod: PodSettings) -> list[tuple[Object, Object]]:
    """Volumes, each with its mount."""
    sources: list[tuple[str, Object]] = [
        *((item.path, {"secret": _set(secretName=item.secret, optional=item.optional or None)})
          for item in pod.secret_volumes),
        *((item.path, {"persistentVolumeClaim": {"claimName": item.claim}}) for item in pod.volume_claims),
    ]  # fmt: skip
    if pod.shared_memory_gib is not None:
        size = f"{math.ceil(pod.shared_memory_gib * 1024)}Mi"
        sources.append(("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": size}}))  # noqa: S108 - shared memory
    return [
        ({"name": f"volume-{number}", **source}, {"name": f"volume-{number}", "mountPath": path})
        for number, (path, source) in enumerate(sources)
    ]


def _set(**fields: Any) -> Object:
    return {name: value for name, value in fields.items() if value is not None}
