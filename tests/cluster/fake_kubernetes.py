"""A stand-in for a Kubernetes API server: real HTTP, the REST protocol that clients speak, one process.

It keeps objects with resource versions, checks custom resources strictly against their public schemas, enforces
roles, streams watches and logs, and answers errors as Status objects. It runs no controllers: a test plays the
operator by subscribing to changes. Patches are JSON merge patches only; CEL rules of schemas are not evaluated.
"""

from __future__ import annotations

import copy
import itertools
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import yaml

from tests.cluster.schemas import findings, load_schema, with_defaults

__all__ = ["FakeKubernetes", "Fault", "Kind", "Request", "StatusError", "now"]

Object = dict[str, Any]
Change = Callable[[str, Object], None]
"""Called with ADDED, MODIFIED or DELETED and the object."""

ADMIN = "kubernetes-admin"


class Kind(NamedTuple):
    """A type of objects that the server knows."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def full_name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


KINDS = (
    Kind("", "v1", "pods", "Pod"),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "configmaps", "ConfigMap"),
    Kind("", "v1", "services", "Service"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("", "v1", "namespaces", "Namespace", namespaced=False),
    Kind("apps", "v1", "deployments", "Deployment"),
    Kind("batch", "v1", "jobs", "Job"),
    Kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
    Kind("trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob"),
    Kind("trainer.kubeflow.org", "v1alpha1", "trainingruntimes", "TrainingRuntime"),
    Kind("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", "ClusterTrainingRuntime", namespaced=False),
    Kind("kubeflow.org", "v2beta1", "mpijobs", "MPIJob"),
    Kind("kubeflow.org", "v1beta1", "experiments", "Experiment"),
    Kind("kubeflow.org", "v1beta1", "trials", "Trial"),
    Kind("kubeflow.org", "v1beta1", "suggestions", "Suggestion"),
    Kind("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService"),
    Kind("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime"),
    Kind("serving.kserve.io", "v1alpha1", "clusterservingruntimes", "ClusterServingRuntime", namespaced=False),
)


class StatusError(Exception):
    """An answer that is an error, as a Status object."""

    def __init__(self, code: int, reason: str, message: str, kind: Kind | None = None, name: str = "") -> None:
        super().__init__(message)
        details = {"group": kind.group, "kind": kind.plural, **({"name": name} if name else {})} if kind else {}
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "details": details,
            "code": code,
        }


class Request(NamedTuple):
    """A request that arrived, for tests to look at."""

    account: str
    verb: str
    resource: str
    """Plural name, with `/subresource`."""
    name: str


@dataclass
class Fault:
    """Answers that the server gives instead of the true ones, for a while."""

    count: int
    status: int
    """0 closes the connection without an answer; 1 does the work and then closes it."""
    method: str = ""
    """Only requests of this method; empty is for all."""
    headers: dict[str, str] = field(default_factory=dict)


class FakeKubernetes:
    """The server; use it as a context manager, and reach it with the file that `kubeconfig` writes."""

    def __init__(self, contracts: Path | None = None, *, without: Iterable[str] = (), version: str = "v1.34.1") -> None:
        """Set the server up.

        Args:
            contracts: Folder with public schemas; without it custom resources are not checked.
            without: Full names of types that are not installed, `mpijobs.kubeflow.org` for one.
            version: What it says it is.
        """
        left_out = set(without)
        self.kinds = {(k.group, k.version, k.plural): k for k in KINDS if k.full_name not in left_out}
        self.contracts = contracts
        self.version = version
        self.host = "127.0.0.1"
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.cut_logs = 0
        """Of how many logs the connection breaks off after their first lines."""
        self.rules: dict[str, list[Object]] = {}
        self.changed = threading.Condition(threading.RLock())
        self.events: list[tuple[int, str, str, Object]] = []
        """Resource version, ADDED or MODIFIED or DELETED, full name of the type, the object."""
        self.stopping = False
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._logs: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self._versions = itertools.count(1)
        self._tokens: dict[str, str] = {}
        self._subscribers: list[tuple[str, Change]] = []
        self._admission: list[tuple[str, Callable[[Object], str | None]]] = []
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        from tests.cluster.fake_kubernetes_http import serve

        self._server = serve(self)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        for kind in list(self.kinds.values()):
            if "." in kind.group and not kind.group.endswith(".k8s.io"):
                self.put("customresourcedefinitions.apiextensions.k8s.io", _definition(kind))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://{self.host}:{self._server.server_address[1]}"

    def kubeconfig(self, path: Path, *, account: str | None = None, namespace: str = "default") -> Path:
        """Write a kubeconfig for this server.

        Args:
            path: File to write.
            account: Name of a service account, which may only do what `bind` or `apply` allows; null may do all.
            namespace: Of the account, and of the context.
        """
        token = uuid.uuid4().hex
        self._tokens[token] = f"system:serviceaccount:{namespace}:{account}" if account else ADMIN
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stand-in",
            "clusters": [{"name": "stand-in", "cluster": {"server": self.url}}],
            "users": [{"name": "stand-in", "user": {"token": token}}],
            "contexts": [
                {"name": "stand-in", "context": {"cluster": "stand-in", "user": "stand-in", "namespace": namespace}}
            ],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def subscribe(self, full_name: str, change: Change) -> None:
        """Call `change` in a thread of its own for each change of objects of a type: here a test plays the operator."""
        self._subscribers.append((full_name, change))

    def deny(self, full_name: str, reason: Callable[[Object], str | None]) -> None:
        """Play an admission webhook: an object for which `reason` gives one is not accepted."""
        self._admission.append((full_name, reason))

    def fail(self, count: int, status: int, method: str = "", **headers: str) -> None:
        """Answer the next requests with an error; 0 closes the connection before the work, 1 after it."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(count, status, method, named))

    def apply(self, documents: str) -> None:
        """Put YAML documents in, as `kubectl apply` would, and bind the roles among them to their accounts."""
        for document in yaml.safe_load_all(documents):
            if document:
                kind = next(k for k in self.kinds.values() if k.kind == document["kind"])
                self.put(kind.full_name, document)
        for (namespace, _), binding in self._objects.get("rolebindings.rbac.authorization.k8s.io", {}).items():
            role = self.get("roles.rbac.authorization.k8s.io", namespace, binding["roleRef"]["name"])
            for subject in binding["subjects"]:
                account = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
                self.rules[account] = copy.deepcopy(role["rules"])

    def account(self, token: str) -> str:
        """Who a bearer token belongs to."""
        if token not in self._tokens:
            raise StatusError(401, "Unauthorized", "Unauthorized")
        return self._tokens[token]

    def allowed(self, account: str, verb: str, group: str, resource: str) -> bool:
        """Whether the rules of an account allow something; `resource` is the plural with `/subresource`."""
        if account == ADMIN:
            return True
        return any(
            verb in rule["verbs"] and group in rule["apiGroups"] and resource in rule["resources"]
            for rule in self.rules.get(account, [])
        )

    def get(self, full_name: str, namespace: str, name: str) -> Object:
        """A copy of an object."""
        with self.changed:
            found = self._objects.get(full_name, {}).get((namespace, name))
            if found is None:
                raise StatusError(404, "NotFound", f'{full_name} "{name}" not found', self.named(full_name), name)
            return copy.deepcopy(found)

    def objects(self, full_name: str, namespace: str = "", labels: Mapping[str, str] | None = None) -> list[Object]:
        """Copies of the objects of a type that have these labels, by name; empty namespace is for all."""
        with self.changed:
            return [
                copy.deepcopy(item)
                for (place, _), item in sorted(self._objects.get(full_name, {}).items())
                if namespace in ("", place) and has_labels(item, labels or {})
            ]

    def put(self, full_name: str, body: Object) -> Object:
        """Keep an object whatever it was before; a status that it lacks is kept. For tests, without rights."""
        body = copy.deepcopy(body)
        key = (str(body["metadata"].get("namespace") or ""), str(body["metadata"]["name"]))
        with self.changed:
            before = self._objects.setdefault(full_name, {}).get(key)
            if before and "status" in before:
                body.setdefault("status", before["status"])
            return self._keep(full_name, key, body, before)

    def set_status(self, full_name: str, namespace: str, name: str, status: Object) -> Object:
        """Replace an object's status, as its operator does."""
        with self.changed:
            return self.put(full_name, {**self.get(full_name, namespace, name), "status": status})

    def create(self, kind: Kind, namespace: str, body: Object, *, strict: bool) -> Object:
        """What a POST does."""
        name = str(body.get("metadata", {}).get("name", ""))
        body = self._checked(kind, name, body, strict=strict)
        body["metadata"]["namespace"] = namespace
        for full_name, reason in self._admission:
            if full_name == kind.full_name and (told := reason(body)):
                webhook = f"validator.{kind.kind.lower()}.{kind.group}"
                raise StatusError(403, "Forbidden", f'admission webhook "{webhook}" denied the request: {told}')
        with self.changed:
            if (namespace, name) in self._objects.get(kind.full_name, {}):
                message = f'{kind.full_name} "{name}" already exists'
                raise StatusError(409, "AlreadyExists", message, kind, name)
            return self._keep(kind.full_name, (namespace, name), body, None)

    def replace(self, kind: Kind, namespace: str, name: str, body: Object, *, strict: bool) -> Object:
        """What a PUT, and a PATCH after merging, does."""
        with self.changed:
            before = self.get(kind.full_name, namespace, name)
            given = body.get("metadata", {}).get("resourceVersion")
            if given and given != before["metadata"]["resourceVersion"]:
                message = (
                    f'Operation cannot be fulfilled on {kind.full_name} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again"
                )
                raise StatusError(409, "Conflict", message, kind, name)
            return self._keep(kind.full_name, (namespace, name), self._checked(kind, name, body, strict=strict), before)

    def delete(self, full_name: str, namespace: str, name: str) -> Object:
        """Remove an object and those that it owns."""
        with self.changed:
            gone = self.get(full_name, namespace, name)
            del self._objects[full_name][(namespace, name)]
            gone["metadata"]["resourceVersion"] = str(next(self._versions))
            self._tell("DELETED", full_name, gone)
            uid = gone["metadata"]["uid"]
            owned = [
                (kind, *key)
                for kind, objects in self._objects.items()
                for key, item in objects.items()
                if any(owner.get("uid") == uid for owner in item["metadata"].get("ownerReferences", ()))
            ]
            for kind, place, below in owned:
                self.delete(kind, place, below)
        return gone

    def append_log(self, namespace: str, pod: str, line: str) -> None:
        """Add a line to the log of a pod's only container."""
        with self.changed:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            self._logs.setdefault((namespace, pod), []).append((stamp, line))
            self.changed.notify_all()

    def log(self, namespace: str, pod: str) -> list[tuple[str, str]]:
        """Times and lines of a pod's log."""
        with self.changed:
            return list(self._logs.get((namespace, pod), ()))

    def named(self, full_name: str) -> Kind:
        return next(kind for kind in self.kinds.values() if kind.full_name == full_name)

    def _checked(self, kind: Kind, name: str, body: Object, *, strict: bool) -> Object:
        schema = load_schema(self.contracts, kind.kind) if self.contracts else None
        problems = findings(schema, body) if schema else []
        unknown = [found.path for found in problems if found.unknown]
        version = body.get("apiVersion")
        expected = f"{kind.group}/{kind.version}" if kind.group else kind.version
        if (version, body.get("kind")) != (expected, kind.kind):
            message = (
                f"the object provided is unrecognized: {version}, {body.get('kind')} is not {expected}, {kind.kind}"
            )
            raise StatusError(400, "BadRequest", message)
        if strict and unknown:
            listed = ", ".join(f'unknown field "{path}"' for path in unknown)
            message = f"{kind.kind} in version {kind.version!r} cannot be handled: strict decoding error: {listed}"
            raise StatusError(400, "BadRequest", message)
        wrong = [f"{found.path}: {found.message}" for found in problems if not found.unknown]
        if wrong or not name:
            message = (
                f'{kind.kind}.{kind.group} "{name}" is invalid: {"; ".join(wrong) or "metadata.name: Required value"}'
            )
            raise StatusError(422, "Invalid", message, kind, name)
        return dict(with_defaults(schema, body)) if schema else copy.deepcopy(body)

    def _keep(self, full_name: str, key: tuple[str, str], body: Object, before: Object | None) -> Object:
        metadata = {**body["metadata"]}
        old = before["metadata"] if before else {}
        metadata["uid"] = old.get("uid") or str(uuid.uuid4())
        metadata["creationTimestamp"] = old.get("creationTimestamp") or now()
        metadata["generation"] = old.get("generation", 0) + (before is None or before.get("spec") != body.get("spec"))
        metadata["resourceVersion"] = str(next(self._versions))
        kept = {**body, "metadata": metadata}
        self._objects.setdefault(full_name, {})[key] = kept
        self._tell("MODIFIED" if before else "ADDED", full_name, kept)
        return copy.deepcopy(kept)

    def _tell(self, event: str, full_name: str, item: Object) -> None:
        seen = copy.deepcopy(item)
        self.events.append((int(item["metadata"]["resourceVersion"]), event, full_name, seen))
        self.changed.notify_all()
        for watched, change in self._subscribers:
            if watched == full_name:
                threading.Thread(target=change, args=(event, copy.deepcopy(seen)), daemon=True).start()


def has_labels(item: Object, labels: Mapping[str, str]) -> bool:
    """Whether an object has all these labels; an empty value asks for the label only."""
    own = item["metadata"].get("labels") or {}
    return all(name in own and value in ("", own[name]) for name, value in labels.items())


def now() -> str:
    """The time as objects have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _definition(kind: Kind) -> Object:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.full_name},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {"plural": kind.plural, "kind": kind.kind},
            "versions": [{"name": kind.version, "served": True, "storage": True}],
        },
    }
