"""Training on several hosts as a TrainJob of Kubeflow Trainer v2: no ssh and no MPI in between.

The TrainingRuntime (containers/train/runtime.yaml) says what such a job is; the step's own settings are
patched over it. Trainer makes a JobSet of it, whose pods are reached as `JOB-node-0-INDEX.JOB`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from millrace.runtime.cluster.api import TRAIN_JOBS, Object
from millrace.runtime.cluster.podspec import container_fields, pod_fields
from millrace.targets.kubeflow import ClusterWork, Training

__all__ = ["condition", "container", "host", "host_names", "labels", "manifest"]

_REPLICA = "node"
"""What Trainer calls the job of the training pods, and their container."""
_INDEX = "batch.kubernetes.io/job-completion-index"


def host_names(name: str, work: ClusterWork) -> tuple[str, ...]:
    """Names by which the pods of a job reach each other."""
    return tuple(f"{name}-{_REPLICA}-0-{index}.{name}" for index in range(work.hosts))


def manifest(name: str, work: ClusterWork, command: Sequence[str], environment: Sequence[Object]) -> Object:
    """The TrainJob: its pods run `command`, each with all of the step's resources and settings."""
    settings = Training.model_validate(work.settings)
    container_settings = container_fields(work)
    mounts = container_settings.get("volumeMounts")
    pod = {
        **pod_fields(work),
        **({"containers": [{"name": _REPLICA, "volumeMounts": mounts}]} if mounts else {}),
    }
    metadata = {
        key: value for key, value in (("labels", work.pod.labels), ("annotations", work.pod.annotations)) if value
    }
    template = {**({"metadata": metadata} if metadata else {}), **({"spec": pod} if pod else {})}
    patched = {"replicatedJobs": [{"name": _REPLICA, "template": {"spec": {"template": template}}}]}
    patch = {"manager": "millrace/step", "trainingRuntimeSpec": {"template": {"spec": patched}}}
    trainer = {
        "image": work.image,
        "command": list(command),
        "env": [*container_settings.get("env", []), *environment],
        "numNodes": work.hosts,
        "resourcesPerNode": container_settings["resources"],
    }
    runtime = {"apiGroup": TRAIN_JOBS.group, "kind": settings.runtime_kind, "name": settings.runtime}
    return {
        "apiVersion": TRAIN_JOBS.api_version,
        "kind": TRAIN_JOBS.kind,
        "metadata": {"name": name, "namespace": work.namespace, "labels": {"app.kubernetes.io/managed-by": "millrace"}},
        "spec": {
            "runtimeRef": runtime,
            "trainer": trainer,
            **({"runtimePatches": [patch]} if template else {}),
            "activeDeadlineSeconds": math.ceil(work.resources.timeout_minutes * 60),
        },
    }


def labels(name: str) -> dict[str, str]:
    """Of the pods of a job."""
    return {"jobset.sigs.k8s.io/jobset-name": name}


def host(pod: Object) -> int:
    """Which host a pod is."""
    metadata = pod["metadata"]
    return int((metadata.get("labels") or {}).get(_INDEX) or (metadata.get("annotations") or {}).get(_INDEX) or 0)


def container(pod: Object) -> str:
    """The container that does the work."""
    return _REPLICA


def condition(job: Object) -> tuple[bool, str] | None:
    """Whether a job that is over went well, and what its operator says about it; None while it is not over."""
    for item in (job.get("status") or {}).get("conditions", ()):
        if item["type"] in ("Complete", "Failed") and item["status"] == "True":
            return item["type"] == "Complete", f"{item.get('reason', '')}: {item.get('message', '')}"
    return None
