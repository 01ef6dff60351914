"""The Kubernetes API as steps of a pipeline use it: a few verbs, patience, and errors that say what to do."""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from millrace.errors import ConfigError, MillraceError, TransientError, UnsupportedError

__all__ = [
    "EXPERIMENTS",
    "INFERENCE_SERVICES",
    "MPI_JOBS",
    "PODS",
    "TRAIN_JOBS",
    "TRIALS",
    "Cluster",
    "Object",
    "Resource",
    "account_of",
    "connect",
    "current_account",
]

Object = dict[str, Any]
"""A Kubernetes object as JSON: apiVersion, kind, metadata, spec, status."""

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TRANSIENT = (408, 429, 500, 502, 503, 504)


class Resource(NamedTuple):
    """A type of objects that the API server keeps."""

    group: str
    """Empty for the core of Kubernetes."""
    version: str
    plural: str
    kind: str
    operator: str
    """What must be installed for the type to be known."""

    @property
    def api_version(self) -> str:
        """As manifests write it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """Plural name with the group, as kubectl and custom resource definitions write it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


TRAIN_JOBS = Resource("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob", "Kubeflow Trainer v2.2 or later")
MPI_JOBS = Resource("kubeflow.org", "v2beta1", "mpijobs", "MPIJob", "the MPI Operator (v0.6 or later)")
INFERENCE_SERVICES = Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", "KServe")
EXPERIMENTS = Resource("kubeflow.org", "v1beta1", "experiments", "Experiment", "Katib")
TRIALS = Resource("kubeflow.org", "v1beta1", "trials", "Trial", "Katib")
PODS = Resource("", "v1", "pods", "Pod", "Kubernetes")


def current_account() -> str | None:
    """The service account of the pod that this process runs in; None outside a cluster."""
    try:
        return account_of((_ACCOUNT / "token").read_text())
    except OSError:
        return None


def account_of(token: str) -> str | None:
    """The service account that a token says it is of; None when it says nothing."""
    try:
        claims = token.split(".")[1]
        subject = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))["sub"]
    except (IndexError, KeyError, ValueError):
        return None
    found = re.fullmatch(r"system:serviceaccount:[^:]+:([^:]+)", str(subject))
    return found[1] if found else None


def connect(namespace: str, *, context: str | None = None, patience_seconds: float = 120) -> Cluster:
    """A connection with the rights of this pod's service account, or of the kubeconfig outside a cluster.

    Nothing is sent before the first request.

    Args:
        namespace: Where objects are.
        context: Of the kubeconfig (`KUBECONFIG`, else ~/.kube/config); null takes the current one.
        patience_seconds: How long a request is tried again while the API is out of reach.

    Raises:
        ConfigError: When the kubernetes package or a way to the cluster is missing.
    """
    try:
        from kubernetes import client, config
    except ModuleNotFoundError as error:
        raise ConfigError("the package kubernetes is missing: pip install -e '.[cluster]'") from error
    configuration: Any = client.Configuration()
    try:
        if context is None and (_ACCOUNT / "token").exists():
            config.load_incluster_config(client_configuration=configuration)
        else:
            named = os.environ.get("KUBECONFIG") or config.KUBE_CONFIG_DEFAULT_LOCATION  # that is as at import
            config.load_kube_config(named, context, configuration)
    except config.ConfigException as error:
        raise ConfigError(
            f"no way to a cluster: {error}; run in a pod with a service account, or name a kubeconfig in KUBECONFIG"
        ) from error
    configuration.retries = False  # tried again here, where 429 and 503 are understood
    return Cluster(client.ApiClient(configuration), namespace, patience_seconds)


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster.

    Every method raises ConfigError when the account may not do this or the type of object is unknown to the
    cluster, UnsupportedError when the server refuses the object, and TransientError when the API stays out of reach.
    """

    client: Any
    """A kubernetes.client.ApiClient."""
    namespace: str
    patience_seconds: float = 120

    def get(self, resource: Resource, name: str) -> Object | None:
        """An object, or None when there is none of that name."""
        answer = self._ask("get", resource, name)
        return answer if answer is None else dict(answer)

    def objects(self, resource: Resource, labels: Mapping[str, str] | None = None) -> list[Object]:
        """All objects that have these labels, by name."""
        items: list[Object] = []
        query = [("labelSelector", selector(labels or {})), ("limit", "200")]
        token = ""
        while True:
            answer = self._ask("list", resource, query=[*query, *([("continue", token)] if token else [])])
            items += (answer or {}).get("items", [])
            token = (answer or {}).get("metadata", {}).get("continue", "")
            if not token:
                return sorted(items, key=lambda item: str(item["metadata"]["name"]))

    def create(self, resource: Resource, body: Object) -> Object:
        """Create an object, or get the one that has its name already: the answer to a create may have been lost."""
        name = str(body["metadata"]["name"])
        query = [("fieldValidation", "Strict")]
        answer = self._ask("create", resource, name, query=query, body=body)
        if answer is None:
            answer = self._ask("get", resource, name)
        if answer is None:
            raise TransientError(f"{resource.kind} {name!r} is just being deleted; try again when it is gone")
        return dict(answer)

    def patch(self, resource: Resource, name: str, change: Object) -> Object:
        """Merge `change` into an object (JSON merge patch: null removes, lists are replaced)."""
        answer = self._ask("patch", resource, name, query=[("fieldValidation", "Strict")], body=change)
        if answer is None:
            raise ConfigError(f"there is no {resource.kind} {name!r} in namespace {self.namespace!r}")
        return dict(answer)

    def delete(
        self, resource: Resource, name: str, *, propagation: Literal["Background", "Foreground"] = "Background"
    ) -> None:
        """Delete an object and what it owns; nothing happens when it is not there.

        Args:
            resource: Its type.
            name: Its name.
            propagation: Foreground keeps the object until all that it owns is gone.
        """
        self._ask("delete", resource, name, body={"propagationPolicy": propagation})

    def log(self, pod: str, container: str, *, follow: bool = True) -> Iterator[str]:
        """Lines of a container's log, each behind its time and a blank; may break off when it is followed.

        Raises:
            TransientError: When the connection breaks off.
        """
        query = [("container", container), ("timestamps", "true"), ("follow", str(follow).lower())]
        response = self._ask("get", PODS, pod, "log", query=query, stream=True)
        if response is None:
            return
        held = b""
        try:
            for chunk in response.stream(65536, decode_content=False):
                *lines, held = (held + chunk).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
        except Exception as error:  # of urllib3, or of sockets below it
            raise TransientError(f"the log of pod {pod} breaks off: {type(error).__name__}") from error
        finally:
            response.release_conn()
        if held:
            yield held.decode("utf-8", "replace")

    def may(self, verb: str, resource: Resource, subresource: str = "") -> bool:
        """Whether this account may do something to objects of a type in the namespace."""
        attributes = {"verb": verb, "group": resource.group, "resource": resource.plural, "namespace": self.namespace}
        if subresource:
            attributes["subresource"] = subresource
        review = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", "")
        body = {"apiVersion": review.api_version, "kind": review.kind, "spec": {"resourceAttributes": attributes}}
        answer = self._send("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        return bool(answer["status"]["allowed"])

    def definition(self, resource: Resource) -> Object | None:
        """The CustomResourceDefinition of a type (a right that only administrators have); None when it is unknown."""
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{resource.full_name}"
        try:
            return dict(self._send("GET", path))
        except _RefusedError as error:
            if error.status == 404:
                return None
            definitions = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "definition", "")
            raise self._explained(error, "get", definitions, resource.full_name) from None

    def _ask(
        self,
        verb: str,
        resource: Resource,
        name: str = "",
        subresource: str = "",
        *,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
        stream: bool = False,
    ) -> Any:
        """Send a request about objects of the namespace; None when there is no such object, or one already."""
        root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
        path = f"{root}/namespaces/{self.namespace}/{resource.plural}"
        if verb != "create":
            path = "/".join(part for part in (path, name, subresource) if part)
        method = _METHODS[verb]
        try:
            return self._send(method, path, query=query, body=body, stream=stream)
        except _RefusedError as error:
            if (error.status == 404 and error.about == name and name) or (error.status == 409 and verb == "create"):
                return None
            raise self._explained(error, verb, resource, name, subresource) from None

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: list[tuple[str, str]] | None = None,
        body: Object | None = None,
        stream: bool = False,
    ) -> Any:
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"

        def call() -> Any:
            return self.client.call_api(
                path,
                method,
                query_params=query or [],
                header_params={"Accept": "application/json, */*", "Content-Type": content},
                body=body,
                response_type=None if stream else "object",
                auth_settings=["BearerToken"],
                _return_http_data_only=True,
                _preload_content=not stream,
                _request_timeout=(10, None if stream else 60),
            )

        return _patiently(call, self.patience_seconds)

    def _explained(
        self, error: _RefusedError, verb: str, resource: Resource, name: str, subresource: str = ""
    ) -> MillraceError:
        what = f"{resource.full_name}{f'/{subresource}' if subresource else ''}"
        place = f"in namespace {self.namespace!r}"
        if error.status == 401:
            return ConfigError(f"the cluster does not accept this account's credentials: {error.message}")
        if error.status == 403 and (account := re.search(r'User "([^"]*)" cannot', error.message)):
            return ConfigError(
                f"{account[1]} may not {verb} {what} {place}; `millrace rbac pipeline=... target=kubeflow` prints the "
                "Role that allows it, for `kubectl apply -f -`"
            )
        if error.status == 400 and "is waiting to start" in error.message:
            return TransientError(f"pod {name}: {error.message}")
        if error.status == 404 and not error.about:
            return ConfigError(
                f"the cluster knows no {resource.full_name} of version {resource.version}: "
                f"install {resource.operator}, or ask who runs the cluster"
            )
        hint = f"; this one is for {resource.operator}" if "unknown field" in error.message else ""
        return UnsupportedError(
            f"the cluster refuses to {verb} {resource.kind} {name!r} {place}: {error.message}{hint}"
        )


_METHODS = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}


class _RefusedError(Exception):
    """An answer that trying again would not change."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        try:
            told = json.loads(body)
        except ValueError:
            told = {}
        self.status = status
        self.message = str(told.get("message") or body)[:2000]
        self.about = str((told.get("details") or {}).get("name") or "")


def selector(labels: Mapping[str, str]) -> str:
    """Labels as the API's query parameter."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _patiently(call: Callable[[], Any], seconds: float) -> Any:
    """Call until the API answers, with growing pauses.

    Raises:
        _RefusedError: When it says no.
        TransientError: When it gives no answer in time.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    deadline = time.monotonic() + seconds
    pause = 0.25
    while True:
        try:
            return call()
        except ApiException as error:
            body = error.body if isinstance(error.body, str) else (error.body or b"").decode("utf-8", "replace")
            if error.status not in _TRANSIENT:
                raise _RefusedError(int(error.status or 0), body) from None
            reason = f"{error.status} {error.reason}"
            asked = (error.headers or {}).get("Retry-After", "")
        except (HTTPError, OSError) as error:
            reason, asked = type(error).__name__, ""
        wait = max(pause, min(float(asked), 30)) if asked.isdecimal() else pause
        if time.monotonic() + wait > deadline:
            raise TransientError(f"the cluster's API is out of reach: {reason}")
        time.sleep(wait)
        pause = min(2 * pause, 10)
