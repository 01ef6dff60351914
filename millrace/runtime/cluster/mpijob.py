"""Training on several hosts as an MPIJob v2beta1, for clusters that have the MPI Operator and no Trainer.

The operator only starts the pods and gives them names: the launcher is the first host, and every pod runs the
same command, neither sshd nor mpirun. Pods are reached as `JOB-launcher.JOB` and `JOB-worker-INDEX.JOB`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from millrace.runtime.cluster.api import MPI_JOBS, Object
from millrace.runtime.cluster.podspec import container_fields, pod_fields
from millrace.targets.kubeflow import ClusterWork

__all__ = ["condition", "container", "host", "host_names", "labels", "manifest"]

_CONTAINER = "train"
_KEEP_SECONDS = 24 * 3600
_NO_SIDECAR = {"sidecar.istio.io/inject": "false"}
"""A sidecar would outlive the work: the job would never end."""


def host_names(name: str, work: ClusterWork) -> tuple[str, ...]:
    """Names by which the pods of a job reach each other."""
    workers = tuple(f"{name}-worker-{index}.{name}" for index in range(work.hosts - 1))
    return (f"{name}-launcher.{name}", *workers)


def manifest(name: str, work: ClusterWork, command: Sequence[str], environment: Sequence[Object]) -> Object:
    """The MPIJob: its pods run `command`, each with all of the step's resources and settings."""
    replicas = {"Launcher": _replicas(1, work, command, environment)}
    if work.hosts > 1:
        replicas["Worker"] = _replicas(work.hosts - 1, work, command, environment)
    return {
        "apiVersion": MPI_JOBS.api_version,
        "kind": MPI_JOBS.kind,
        "metadata": {"name": name, "namespace": work.namespace, "labels": {"app.kubernetes.io/managed-by": "millrace"}},
        "spec": {
            "slotsPerWorker": work.processes,
            "runLauncherAsWorker": True,
            "launcherCreationPolicy": "AtStartup",
            "runPolicy": {
                "cleanPodPolicy": "Running",
                "backoffLimit": 0,
                "activeDeadlineSeconds": math.ceil(work.resources.timeout_minutes * 60),
                "ttlSecondsAfterFinished": _KEEP_SECONDS,
            },
            "mpiReplicaSpecs": replicas,
        },
    }


def _replicas(count: int, work: ClusterWork, command: Sequence[str], environment: Sequence[Object]) -> Object:
    settings = container_fields(work)
    container = {
        **settings,
        "name": _CONTAINER,
        "image": work.image,
        "command": list(command),
        "env": [*settings.get("env", []), *environment],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    metadata = {"labels": {**_NO_SIDECAR, **work.pod.labels}, "annotations": {**_NO_SIDECAR, **work.pod.annotations}}
    template = {
        "metadata": metadata,
        "spec": {**pod_fields(work), "automountServiceAccountToken": False, "containers": [container]},
    }
    return {"replicas": count, "restartPolicy": "Never", "template": template}


def labels(name: str) -> dict[str, str]:
    """Of the pods of a job."""
    return {"training.kubeflow.org/job-name": name}


def host(pod: Object) -> int:
    """Which host a pod is."""
    worker = re.search(r"-worker-(\d+)$", pod["metadata"]["name"])
    return int(worker[1]) + 1 if worker else 0


def container(pod: Object) -> str:
    """The container that does the work."""
    return _CONTAINER


def condition(job: Object) -> tuple[bool, str] | None:
    """Whether a job that is over went well, and what its operator says about it; None while it is not over."""
    for item in (job.get("status") or {}).get("conditions", ()):
        if item["type"] in ("Succeeded", "Failed") and item["status"] == "True":
            return item["type"] == "Succeeded", f"{item.get('reason', '')}: {item.get('message', '')}"
    return None
