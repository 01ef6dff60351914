"""The log of a task, as the UI shows it.

The API of version v2beta1 serves no logs. The UI does (`/k8s/pod/logs`, from the pod or from the archive),
and the API server has kept an older path. Both want the pod's name, which the API does not tell: it is put
together as Argo does, from the id of the node and the name of its template.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from millrace.errors import ConfigError, did_you_mean
from millrace.services.kubeflow.connection import Connection, ServiceError, in_path
from millrace.services.kubeflow.status import RunStatus, TaskStatus

__all__ = ["read_log", "task_of"]


def task_of(status: RunStatus, name: str) -> TaskStatus:
    """The task of this name.

    Raises:
        ConfigError: When the run has none.
    """
    for task in status.tasks:
        if task.name == name:
            return task
    raise ConfigError(
        f"logs={name}: the run has no such task: {did_you_mean(name, (task.name for task in status.tasks))}"
    )


def read_log(connection: Connection, status: RunStatus, task: TaskStatus, namespace: str) -> str:
    """The log of a task's container; of the passes of a loop, one after the other.

    Raises:
        ConfigError: When no log can be had, with the way to it.
    """
    found = _from_cluster(connection, status, task, connection.namespace or namespace)
    found = found or [text for node in task.nodes if (text := _of_node(connection, status, task, node, namespace))]
    if found:
        return "\n".join(found)
    reason = "it has not started a container yet" if not task.nodes else "its pods and their archived logs are gone"
    raise ConfigError(
        f"there is no log of task {task.name!r}: {reason}; see {status.link}, or\n"
        f"  kubectl logs -n {namespace} -c main -l pipeline/runid={status.run_id} --prefix"
    )


def _of_node(connection: Connection, status: RunStatus, task: TaskStatus, node: str, namespace: str) -> str:
    day = status.created.strftime("%Y-%m-%d") if status.created else None
    for pod in _pods(node, task.name):
        try:
            return connection.text(
                connection.ui,
                "/k8s/pod/logs",
                podname=pod,
                runid=status.run_id,
                podnamespace=connection.namespace or namespace,
                createdat=day,
            )
        except ServiceError as error:
            if error.status in (401, 403):
                raise
        try:
            path = f"/apis/v1alpha1/runs/{in_path(status.run_id)}/nodes/{in_path(pod)}/log"
            text = connection.text(connection.host, path)
        except ServiceError:
            continue
        if '"error_message"' not in text[:200]:  # the older path answers 200 to everything
            return text
    return ""


def _pods(node: str, task: str) -> Iterator[str]:
    """Names that the pod of a node can have; of a task that was tried again, the last attempt first."""
    workflow, _, number = node.rpartition("-")
    yield f"{workflow}-system-container-impl-{number}"
    name = f"{workflow}.root.{task}.executor"
    if str(_hash(name)) == number:
        yield from (
            f"{workflow}-retry-system-container-impl-{_hash(f'{name}({attempt})')}" for attempt in range(9, -1, -1)
        )


def _hash(text: str) -> int:
    """FNV-1a of 32 bits, by which Argo makes the names of pods from those of nodes."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def _from_cluster(connection: Connection, status: RunStatus, task: TaskStatus, namespace: str) -> list[str]:
    """Logs straight from the pods, where a kube context leads to them."""
    if connection.cluster is None:
        return []
    pods = f"/api/v1/namespaces/{in_path(namespace)}/pods"
    try:
        listed = json.loads(connection.text(connection.cluster, pods, labelSelector=f"pipeline/runid={status.run_id}"))
        logs = []
        for pod in listed["items"]:
            node = pod["metadata"].get("annotations", {}).get("workflows.argoproj.io/node-name", "")
            if f".{task.name}.executor" in node:
                path = f"{pods}/{in_path(pod['metadata']['name'])}/log"
                logs.append(connection.text(connection.cluster, path, container="main"))
    except ServiceError:  # not allowed to: the UI may still have them
        return []
    return logs
