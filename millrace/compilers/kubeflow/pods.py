"""What a task's pod gets: resources, placement, secrets, retries, and work that it hands to the cluster."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from pydantic import JsonValue

from millrace.compilers.images import reference
from millrace.errors import ConfigError, UnsupportedError, did_you_mean
from millrace.specs import ComponentSpec, PipelineSpec, Resources, Retries, Task
from millrace.specs.uncached import is_uncached
from millrace.targets.kubeflow import ClusterWork, Kubeflow, PodSettings

__all__ = [
    "check_tasks",
    "cluster_work",
    "is_cached",
    "pod_settings",
    "ranks_here",
    "retries_end",
    "set_pod",
    "with_resources",
]

_FOLLOWER = Resources(cpus=0.5, memory_gib=1)
"""Of a step that hands its work to the cluster and follows it; one that deploys loads the model, to compare answers."""

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux has it
_RESOURCES = ("cpus", "memory_gib", "gpus", "timeout_minutes")


def check_tasks(spec: PipelineSpec, target: Kubeflow) -> None:
    """Check that settings of single tasks name tasks that there are.

    Raises:
        ConfigError: With the nearest name.
    """
    names = [task.name for task in spec.tasks]
    for name in target.tasks:
        if name not in names:
            raise ConfigError(f"target.tasks.{name}: unknown task: {did_you_mean(name, names)}")


def pod_settings(task: str, target: Kubeflow) -> PodSettings:
    """The settings of a task's pod: those of all pods, and its own over them."""
    own = target.tasks.get(task, PodSettings())
    values: dict[str, Any] = {}
    for name in own.model_fields_set:
        general, special = getattr(target.pod, name), getattr(own, name)
        if isinstance(special, Mapping):
            values[name] = {**general, **special}
        elif isinstance(special, tuple):
            values[name] = (*general, *(item for item in special if item not in general))
        elif special is not None:
            values[name] = special
    return target.pod.model_copy(update=values)


def is_cached(task: Task, component: ComponentSpec, target: Kubeflow, opened: Collection[str] = ()) -> bool:
    """Whether a task's results may stand for those of an equal one.

    Args:
        task: The task.
        component: Its component.
        target: The target.
        opened: Dotted parameters that runtime parameters fill.
    """
    work = cluster_work(task, component, target)
    serves = work is not None and work.kind == "inferenceservice"
    chosen = pod_settings(task.name, target).cache
    outside = is_uncached(task, component, opened)
    return task.cache and not outside and not serves and (target.cache if chosen is None else chosen)


def with_resources(spec: PipelineSpec, target: Kubeflow) -> PipelineSpec:
    """The pipeline, with the resources and retries that the target's configuration gives its tasks."""
    return spec.model_copy(update={"tasks": tuple(_resourced(task, target) for task in spec.tasks)})


def _resourced(task: Task, target: Kubeflow) -> Task:
    pod = pod_settings(task.name, target)
    given = {name: value for name in _RESOURCES if (value := getattr(pod, name)) is not None}
    retries = task.retries if pod.retries is None else task.retries.model_copy(update={"limit": pod.retries})
    return task.model_copy(update={"resources": task.resources.model_copy(update=given), "retries": retries})


def cluster_work(task: Task, component: ComponentSpec, target: Kubeflow) -> ClusterWork | None:
    """What a task hands to a service of the cluster; None where its own pod does the work.

    Raises:
        UnsupportedError: For hosts or ranks that nobody would start.
    """
    asked = task.distribution
    settings: Mapping[str, tuple[str, Mapping[str, JsonValue], bool]] = {
        "training": (target.training.kind, target.training.model_dump(mode="json"), asked.hosts > 1),
        "tuning": ("experiment", target.tuning.model_dump(mode="json"), target.tuning.kind == "katib"),
        "serving": ("inferenceservice", target.serving.model_dump(mode="json"), target.serving.kind == "kserve"),
    }
    # a cluster has no service for inference: the task's own pod does it
    chosen = [settings[service] for service in component.delegates if service in settings and settings[service][2]]
    if asked.hosts * asked.processes > 1 and "training" not in component.delegates:
        raise UnsupportedError(
            f"tasks.{task.name}: distribution asks for {asked.hosts} hosts with {asked.processes} processes each, "
            "which components have that delegate training: use Distribution(hosts=1, processes=1) here"
        )
    if not chosen:
        return None
    kind, values, _ = chosen[0]
    account = target.serving.service_account if kind == "inferenceservice" else target.service_account
    return ClusterWork(
        kind=kind,
        namespace=target.namespace,
        image=reference(component.image, target.images),
        service_account=account,
        hosts=asked.hosts,
        processes=asked.processes,
        resources=task.resources,
        pod=pod_settings(task.name, target),
        settings=dict(values),
    )


def ranks_here(task: Task, work: ClusterWork | None) -> list[str]:
    """Arguments that tell a pod how many ranks it is to start, where it does the work itself."""
    return ["--processes", str(task.distribution.processes)] if not work and task.distribution.processes > 1 else []


def set_pod(
    kfp_task: Any, task: Task, component: ComponentSpec, target: Kubeflow, opened: Collection[str] = ()
) -> None:
    """Give a kfp task its resources, retries, caching and everything of Kubernetes."""
    pod = pod_settings(task.name, target)
    resources = task.resources
    work = cluster_work(task, component, target)
    if work is not None:  # the work's own pods get the task's resources
        memory = resources.memory_gib if work.kind == "inferenceservice" else _FOLLOWER.memory_gib
        resources = _FOLLOWER.model_copy(update={"memory_gib": memory, "timeout_minutes": resources.timeout_minutes})
        placed = {"node_selector": target.pod.node_selector, "tolerations": target.pod.tolerations}
        pod = pod.model_copy(update={**placed, "shared_memory_gib": None})
    _set_resources(kfp_task, resources, pod)
    _set_retries(kfp_task, task.retries, resources)
    kfp_task.set_caching_options(is_cached(task, component, target, opened))
    _set_variables(kfp_task, pod)
    _set_volumes(kfp_task, pod)
    _set_placement(kfp_task, pod)


def _set_resources(kfp_task: Any, resources: Resources, pod: PodSettings) -> None:
    """Limits, of which Kubernetes makes requests, too."""
    from kfp import kubernetes

    milli = math.ceil(resources.cpus * 1000)
    cpus = f"{milli // 1000}" if milli % 1000 == 0 else f"{milli}m"
    kfp_task.set_cpu_limit(cpus).set_memory_limit(_mebibytes(resources.memory_gib))
    if resources.gpus:
        kfp_task.set_accelerator_type(pod.accelerator).set_accelerator_limit(resources.gpus)
    kubernetes.set_timeout(kfp_task, math.ceil(resources.timeout_minutes * 60))


def _mebibytes(gibibytes: float) -> str:
    """kfp takes whole numbers only."""
    return f"{math.ceil(gibibytes * 1024)}Mi"


def _set_retries(kfp_task: Any, retries: Retries, resources: Resources) -> None:
    if retries.limit == 0:
        return
    kfp_task.set_retry(
        num_retries=retries.limit,
        backoff_duration=f"{math.ceil(retries.backoff_seconds)}s",
        backoff_factor=retries.factor,
        backoff_max_duration=retries_end(retries, resources),
    )


def retries_end(retries: Retries, resources: Resources) -> str:
    """How long all attempts and the waits between them may take.

    Argo counts from the beginning of the first attempt; when the time is over it gives up, and ends an attempt
    that is going on.
    """
    waits = sum(retries.delay(attempt) for attempt in range(1, retries.limit + 1))
    return f"{math.ceil(resources.timeout_minutes * 60 * (retries.limit + 1) + waits)}s"


def _set_variables(kfp_task: Any, pod: PodSettings) -> None:
    from kfp import kubernetes

    for name, value in sorted(pod.environment.items()):
        kfp_task.set_env_variable(name, value)
    for secret in pod.secret_variables:
        named = {secret.key: secret.variable}
        kubernetes.use_secret_as_env(kfp_task, secret.secret, named, optional=secret.optional)
    for config in pod.config_map_variables:
        named = {config.key: config.variable}
        kubernetes.use_config_map_as_env(kfp_task, config.config_map, named, optional=config.optional)


def _set_volumes(kfp_task: Any, pod: PodSettings) -> None:
    from kfp import kubernetes

    for volume in pod.secret_volumes:
        kubernetes.use_secret_as_volume(kfp_task, volume.secret, volume.path, optional=volume.optional)
    for claim in pod.volume_claims:
        kubernetes.mount_pvc(kfp_task, claim.claim, claim.path)
    if pod.shared_memory_gib is not None:
        size = _mebibytes(pod.shared_memory_gib)
        kubernetes.empty_dir_mount(kfp_task, "shared-memory", _SHARED_MEMORY, medium="Memory", size_limit=size)


def _set_placement(kfp_task: Any, pod: PodSettings) -> None:
    from kfp import kubernetes

    for key, value in sorted(pod.node_selector.items()):
        kubernetes.add_node_selector(kfp_task, key, value)
    for toleration in pod.tolerations:
        kubernetes.add_toleration(kfp_task, **toleration.model_dump())
    if pod.image_pull_policy:
        kubernetes.set_image_pull_policy(kfp_task, pod.image_pull_policy)
    if pod.image_pull_secrets:
        kubernetes.set_image_pull_secrets(kfp_task, list(pod.image_pull_secrets))
    for key, value in sorted(pod.labels.items()):
        kubernetes.add_pod_label(kfp_task, key, value)
    for key, value in sorted(pod.annotations.items()):
        kubernetes.add_pod_annotation(kfp_task, key, value)
