"""A deployment as a KServe InferenceService: what is asked for, as data, and the changes that lead there."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from millrace.components.deploy.spec import DeployParameters, Scaling
from millrace.errors import ConfigError, UnsupportedError
from millrace.runtime.cluster.podspec import container_fields, pod_fields
from millrace.runtime.limits import NAME_VARIABLE, REVISION_VARIABLE, Limits, limit_variable
from millrace.targets.kubeflow import ClusterWork, Serving

__all__ = [
    "CANARY",
    "MANAGED",
    "Object",
    "accepted",
    "check",
    "noted",
    "opened",
    "predictor",
    "previous",
    "promoted",
    "rejected",
    "replacing",
    "restored",
    "revision",
    "rolled_out",
    "service",
    "settings",
    "withdrawn",
]

Object = dict[str, Any]

MANAGED = {"app.kubernetes.io/managed-by": "millrace"}
"""Label of the services that deploy may change."""
CANARY = "canary"
"""Name of the second predictor in Standard mode."""

_REVISION = "millrace.dev/revision"
_PREVIOUS = "millrace.dev/previous"
_ACCEPTED = "millrace.dev/accepted"
_REJECTED = "millrace.dev/rejected"
_PORT = 8080
_NAME = r"[a-z]([-a-z0-9]*[a-z0-9])?"
_LONGEST_NAME = 46  # `latest-NAME-predictor` is a DNS label
_SCHEMES = ("s3", "gs", "pvc", "https", "http", "hdfs", "webhdfs", "oci", "hf")
_METRICS = {"knative": ("concurrency", "rps"), "standard": ("cpu", "memory")}
_MODES = {"knative": "Knative", "standard": "Standard"}


def settings(work: ClusterWork) -> Serving:
    """The target's settings of a cluster step."""
    return Serving.model_validate(work.settings)


def check(parameters: DeployParameters, work: ClusterWork) -> None:
    """Refuse what KServe, in the mode that is used, can't do or would ignore.

    Raises:
        ConfigError: For a name that can't be an InferenceService's.
        UnsupportedError: Naming the parameter, why, and what to do.
    """
    name, serving = parameters.name, settings(work)
    if not re.fullmatch(_NAME, name) or len(name) > _LONGEST_NAME:
        raise ConfigError(
            f"name={name!r} can't be an InferenceService's: lower-case letters, digits and dashes, beginning with a "
            f"letter, at most {_LONGEST_NAME}"
        )
    for field in ("host", "port"):
        if getattr(parameters, field) != DeployParameters.model_fields[field].default:
            raise UnsupportedError(f"{field}={getattr(parameters, field)}: KServe chooses it; leave it out here")
    if parameters.scaling is not None:
        _check_scaling(parameters.scaling, serving)
    if parameters.canary is not None and serving.mode == "standard" and serving.runtime is not None:
        raise UnsupportedError(
            f"canary: a canary of Standard mode does not get the model's files with runtime={serving.runtime}: "
            "use the serve image (target.serving.runtime=null) or target.serving.mode=knative"
        )


def _check_scaling(scaling: Scaling, serving: Serving) -> None:
    mode = _MODES[serving.mode]
    allowed = _METRICS[serving.mode]
    if scaling.metric is not None and scaling.metric not in allowed:
        raise UnsupportedError(
            f"scaling.metric={scaling.metric}: {mode} mode of KServe scales by {' or '.join(allowed)}; "
            f"choose one of them, or another target.serving.mode"
        )
    if serving.mode == "standard" and scaling.min_replicas == 0:
        raise UnsupportedError(
            "scaling.min_replicas=0: Standard mode of KServe keeps at least 1; use 1, or target.serving.mode=knative"
        )
    if scaling.metric == "memory" and scaling.target is None:
        raise UnsupportedError("scaling.metric=memory: KServe scales by memory only with a scaling.target in percent")


def service(parameters: DeployParameters, work: ClusterWork, wanted: Object) -> Object:
    """The InferenceService that is created where there is none."""
    mode = settings(work).mode
    ours = {"knative": {"serving.kserve.io/enable-tag-routing": "true"}}  # gives a canary an address of its own
    scaler = {"standard": {"serving.kserve.io/autoscalerClass": "hpa"}}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": parameters.name,
            "namespace": work.namespace,
            "labels": dict(MANAGED),
            "annotations": {
                "serving.kserve.io/deploymentMode": _MODES[mode],
                **ours.get(mode, {}),
                **scaler.get(mode, {}),
            },
        },
        "spec": {"predictor": wanted},
    }


def predictor(parameters: DeployParameters, work: ClusterWork, model_format: str, uri: str) -> Object:
    """What serves the model, with the digest of everything in it as an annotation.

    Args:
        parameters: Name, limits and scaling.
        work: Image, resources and placement of the pods.
        model_format: Of the model's card, keras or litert.
        uri: Where the model's folder is.

    Raises:
        UnsupportedError: For a place that KServe can't fetch from, or a format that the runtime can't serve.
    """
    uri = re.sub(r"^minio://", "s3://", uri)  # MinIO speaks S3; the service account's secret says where it is
    scheme = urlsplit(uri).scheme
    if scheme not in _SCHEMES:
        raise UnsupportedError(
            f"the model is at {uri or 'no address of its own'}: KServe fetches from {', '.join(_SCHEMES)}; "
            "store the run's artifacts there (target.pipeline_root)"
        )
    serving = settings(work)
    runtime = _own_server if serving.runtime is None else _serving_runtime
    made: Object = {**pod_fields(work), **_scaling(parameters, serving), **runtime(parameters, work, model_format, uri)}
    content = json.dumps(made, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:16]
    annotations = {**work.pod.annotations, _REVISION: digest}
    if work.pod.labels:
        made["labels"] = dict(work.pod.labels)
    for container in made.get("containers", ()):
        container["env"].append({"name": REVISION_VARIABLE, "value": digest})
    return {**made, "annotations": annotations}


def _own_server(parameters: DeployParameters, work: ClusterWork, model_format: str, uri: str) -> Object:
    """Our serve image. For containers of one's own KServe takes the model's address from a variable."""
    defaults = Limits()
    variables = {"STORAGE_URI": uri, NAME_VARIABLE: parameters.name} | {
        limit_variable(field): f"{getattr(parameters, field)}"
        for field in Limits.model_fields
        if getattr(parameters, field) != getattr(defaults, field)
    }
    fields = container_fields(work)
    return {
        "containers": [
            {
                **fields,
                "name": "kserve-container",
                "image": work.image,
                "command": ["millrace", "serve"],
                "env": [*({"name": name, "value": value} for name, value in variables.items()), *fields.get("env", ())],
                "ports": [{"name": "http1", "containerPort": _PORT, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": "/ping", "port": _PORT}, "periodSeconds": 5},
                "livenessProbe": {
                    "httpGet": {"path": "/v2/health/live", "port": _PORT},
                    "initialDelaySeconds": 30,
                    "failureThreshold": 6,
                },
            }
        ]
    }


def _serving_runtime(parameters: DeployParameters, work: ClusterWork, model_format: str, uri: str) -> Object:
    """A runtime of the cluster. TensorFlow Serving looks for folders named by versions: the mount makes one."""
    runtime = settings(work).runtime
    if model_format != "keras":
        raise UnsupportedError(
            f"target.serving.runtime={runtime}: no runtime of KServe serves a {model_format} model; "
            "use the serve image (target.serving.runtime=null)"
        )
    changed = [
        field for field, value in Limits().model_dump().items() if getattr(parameters, field) != value
    ]  # the runtime would know nothing of them
    if changed:
        raise UnsupportedError(
            f"{changed[0]}={getattr(parameters, changed[0])}: a limit of the serve image that "
            f"target.serving.runtime={runtime} does not have; leave it out, or set target.serving.runtime=null"
        )
    return {
        "model": {
            **container_fields(work),
            "modelFormat": {"name": "tensorflow", "version": "2"},
            "protocolVersion": "v1",
            "runtime": runtime,
        },
        "storageUris": [{"uri": f"{uri.rstrip('/')}/saved_model", "mountPath": "/mnt/models/1"}],
    }


def _scaling(parameters: DeployParameters, serving: Serving) -> Object:
    scaling = parameters.scaling or Scaling()
    made: Object = {"minReplicas": scaling.min_replicas, "maxReplicas": scaling.max_replicas}
    if scaling.metric is not None:
        made["scaleMetric"] = scaling.metric
    if scaling.target is not None:
        made["scaleTarget"] = scaling.target
    if serving.mode == "knative":
        made["timeout"] = math.ceil(parameters.timeout_seconds) + 10  # the server's own refusal comes first
    return made


def revision(wanted: Mapping[str, Any]) -> str:
    """The digest of a predictor that deploy made; empty for others."""
    return str(wanted.get("annotations", {}).get(_REVISION, ""))


def previous(current: Mapping[str, Any]) -> tuple[Object, str]:
    """The predictor that a service had before its present one, and the revision that it was; ({}, "") if none."""
    kept = json.loads(current["spec"]["predictor"].get("annotations", {}).get(_PREVIOUS, "{}"))
    return kept.get("predictor", {}), kept.get("revision", "")


def accepted(current: Mapping[str, Any] | None) -> str:
    """The digest of the predictor that is served, if it has passed its checks; else nothing."""
    if current is None:
        return ""
    passed = str((current["metadata"].get("annotations") or {}).get(_ACCEPTED, ""))
    return passed if passed == revision(current["spec"]["predictor"]) else ""


def rejected(current: Mapping[str, Any]) -> str:
    """The digest of the predictor that last failed its checks, and the run in which it did."""
    return str((current.get("metadata", {}).get("annotations") or {}).get(_REJECTED, ""))


def noted(*, accepted: str | None = None, rejected: str | None = None) -> Object:
    """The change that writes a verdict down, beside the predictor: it makes no new revision."""
    verdicts = {_ACCEPTED: accepted, _REJECTED: rejected}
    return {"metadata": {"annotations": {name: value for name, value in verdicts.items() if value is not None}}}


def rolled_out(current: Object, wanted: Object, percent: int | None = None) -> Object:
    """The change that puts `wanted` in the place of the present predictor, which it remembers.

    Args:
        current: The service.
        wanted: What shall serve.
        percent: Share of the requests that it gets at first, in Knative mode; null for all.
    """
    before = {name: value for name, value in current["spec"]["predictor"].items() if name != "canaryTrafficPercent"}
    before["annotations"] = {name: value for name, value in before.get("annotations", {}).items() if name != _PREVIOUS}
    latest = current.get("status", {}).get("components", {}).get("predictor", {}).get("latestCreatedRevision", "")
    memory = json.dumps({"predictor": before, "revision": latest}, sort_keys=True)
    new = {**wanted, "annotations": {**wanted["annotations"], _PREVIOUS: memory}}
    if percent is not None:
        new["canaryTrafficPercent"] = percent
    return {"spec": {"predictor": replacing(current["spec"]["predictor"], new), "canary": None}}


def opened(wanted: Object, percent: int) -> Object:
    """The change that puts `wanted` beside the present predictor, in Standard mode."""
    fixed = ("maxReplicas", "minReplicas", "scaleMetric", "scaleTarget")  # a canary is not scaled
    beside = {name: value for name, value in wanted.items() if name not in fixed}
    # KServe makes as many copies as the share comes to: a share of nothing would be no copy to ask
    least = {"minReplicas": 1} if percent == 0 else {}
    return {"spec": {"canary": [{"predictor": {"name": CANARY, **beside, **least}, "trafficPercent": percent}]}}


def promoted() -> Object:
    """The change that gives the newest revision all requests, in Knative mode."""
    return {"spec": {"predictor": {"canaryTrafficPercent": None}}}


def withdrawn() -> Object:
    """The change that ends a canary of Standard mode."""
    return {"spec": {"canary": None}}


def restored(current: Object, *, hidden: bool) -> Object | None:
    """The change that brings the earlier predictor back; None when there was none.

    Args:
        current: The service.
        hidden: Give the copy of the earlier predictor no requests until it is ready: the earlier revision has them
            (Knative mode). Otherwise they would go to the newest revision that is ready, the one that failed.
    """
    before, _ = previous(current)
    if not before:
        return None
    new = {**before, **({"canaryTrafficPercent": 0} if hidden else {})}
    return {"spec": {"predictor": replacing(current["spec"]["predictor"], new)}}


def replacing(old: Mapping[str, Any], new: Mapping[str, Any]) -> Object:
    """A JSON merge patch after which an object is `new`, whatever it was."""
    change: Object = {name: None for name in old if name not in new}
    for name, value in new.items():
        below = old.get(name)
        change[name] = replacing(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return change
