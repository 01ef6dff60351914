"""What KServe says about an InferenceService and its pods: how far it is, where it answers, why it does not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from millrace.components.deploy.kserve import CANARY, Object, revision
from millrace.targets.kubeflow import Serving

__all__ = ["address_of", "conditions", "knative_pending", "latest_revision", "pod_failure", "standard_pending"]

_FINAL = ("CreateContainerConfigError", "ErrImageNeverPull", "InvalidImageName")
_PATIENT = ("CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff")
_RESTARTS = 2  # from then on a container that ends again and again is given up


def latest_revision(current: Object) -> str:
    """Knative's name of the newest revision; empty while there is none."""
    return str(_predictor_status(current).get("latestCreatedRevision", ""))


def knative_pending(current: Object, before: str, percent: int | None) -> str:
    """What is missing until the revision after `before` has its share of the requests; empty when nothing is.

    Args:
        current: The service.
        before: The newest revision before the change.
        percent: The share; null for all.
    """
    status = _predictor_status(current)
    created = status.get("latestCreatedRevision", "")
    if not created or created == before:
        return "KServe has made no new revision yet"
    if status.get("latestReadyRevision") != created:
        return f"revision {created} is not ready"
    if percent is None and status.get("latestRolledoutRevision") != created:
        return f"revision {created} does not have all requests yet"
    shares = [item.get("percent", 0) for item in status.get("traffic", ()) if item.get("latestRevision")]
    if percent is not None and percent not in shares:
        return f"revision {created} does not have its {percent} % of the requests yet"
    return _not_ready(current)


def standard_pending(current: Object, pods: Iterable[Object], wanted: str, *, beside: bool) -> str:
    """What is missing until pods of the predictor with digest `wanted` answer; empty when nothing is.

    Args:
        current: The service.
        pods: Those of the service. They tell what the service's own conditions do not: which predictor is ready.
        wanted: Digest of the predictor.
        beside: It is a canary, so that others stay.
    """
    living = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    ready = [_revision_of(pod) for pod in living if _is_ready(pod)]
    if wanted not in ready:
        return "no pod with the new model is ready"
    if not beside and any(_revision_of(pod) != wanted for pod in living):
        return "pods with the earlier model still answer"
    canaries = current.get("status", {}).get("canaryStatuses", ())
    if beside and not any(item["name"] == CANARY and item["ready"] for item in canaries):
        return "KServe has not taken up the canary yet (Standard mode has canaries from v0.20 on)"
    return _not_ready(current)


def pod_failure(pods: Iterable[Object], wanted: str) -> tuple[str, bool]:
    """Why pods of the predictor with digest `wanted` do not come up, and whether waiting is of no use."""
    for pod in pods:
        if _revision_of(pod) != wanted:
            continue
        name = pod["metadata"]["name"]
        for container in _containers(pod):
            reason, message, final = _container_failure(container)
            if reason:
                return f"pod {name}, container {container['name']}: {reason}{f': {message}' if message else ''}", final
        for condition in pod.get("status", {}).get("conditions", ()):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"pod {name}: {condition.get('reason')}: {condition.get('message', '')}", False
    return "", False


def conditions(current: Object) -> dict[str, str]:
    """Each condition with its reason, in a few words."""
    told = {}
    status = current.get("status", {})
    for item in status.get("conditions", ()):
        why = ": ".join(filter(None, (item.get("reason"), item.get("message"))))
        told[str(item["type"])] = f"{item['status']}{f' ({why})' if why else ''}"
    failure = status.get("modelStatus", {}).get("lastFailureInfo")
    if failure:
        told["model"] = ": ".join(filter(None, (failure.get("reason"), failure.get("message"))))
    return told


def address_of(current: Object, serving: Serving, tag: str = "") -> tuple[str, str]:
    """URL and Host header for asking a service.

    Args:
        current: The service.
        serving: Where it is asked from.
        tag: `latest` or `prev` for one revision of Knative mode, `canary` for that of Standard mode, else all.

    Returns:
        ("", "") when KServe gives no address.
    """
    status = current.get("status", {})
    inside, outside = status.get("address", {}).get("url", ""), str(status.get("url", ""))
    tagged = next((item.get("url", "") for item in _predictor_status(current).get("traffic", ())
                   if item.get("tag") == tag), "")  # fmt: skip
    name, namespace = current["metadata"]["name"], current["metadata"]["namespace"]
    if tag:
        service = f"{name}-{tag}-predictor" if tag == CANARY else f"{tag}-{name}-predictor"
        inside = _sibling(inside, service, namespace)
        outside = tagged or (inside if tag == CANARY else "")
    if serving.ingress is not None:
        return serving.ingress, urlsplit(outside or inside).netloc
    chosen = urlsplit(inside or outside)
    return (f"{chosen.scheme}://{chosen.netloc}" if chosen.netloc else ""), ""


def _sibling(inside: str, service: str, namespace: str) -> str:
    """The address of another service in the namespace, from that of one: same scheme, cluster domain and port."""
    scheme, netloc = urlsplit(inside)[:2]
    _, found, domain = netloc.partition(f".{namespace}.svc")
    return f"{scheme}://{service}.{namespace}.svc{domain}" if found else ""


def _predictor_status(current: Object) -> Mapping[str, Any]:
    status: Mapping[str, Any] = current.get("status", {}).get("components", {}).get("predictor", {})
    return status


def _not_ready(current: Object) -> str:
    for item in current.get("status", {}).get("conditions", ()):
        if item["type"] == "Ready" and item["status"] == "True":
            return ""
    return "the service is not ready"


def _revision_of(pod: Object) -> str:
    return revision(pod["metadata"])


def _is_ready(pod: Object) -> bool:
    return any(
        item["type"] == "Ready" and item["status"] == "True" for item in pod.get("status", {}).get("conditions", ())
    )


def _containers(pod: Object) -> Iterator[Object]:
    for group in ("initContainerStatuses", "containerStatuses"):
        yield from pod.get("status", {}).get(group, ())


def _container_failure(container: Object) -> tuple[str, str, bool]:
    """Reason, message, and whether it is final."""
    waiting = container.get("state", {}).get("waiting", {})
    reason = waiting.get("reason", "")
    if reason not in (*_FINAL, *_PATIENT):
        return "", "", False
    ended = container.get("lastState", {}).get("terminated", {})
    message = ended.get("message") or waiting.get("message", "")
    if ended and not ended.get("message"):
        message = f"exit code {ended.get('exitCode')} ({ended.get('reason', 'unknown')})"
    return reason, message.strip(), reason in _FINAL or container.get("restartCount", 0) >= _RESTARTS
