"""The HTTP side of the stand-in API server: paths, verbs, rights, watches and logs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.cluster.fake_kubernetes import FakeKubernetes, Fault, Kind, Object, Request, StatusError, has_labels

__all__ = ["serve"]

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[^/]+))/(?P<version>v[^/]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[a-z]+))?$"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class _Asked(NamedTuple):
    method: str
    kind: Kind
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]


def serve(cluster: FakeKubernetes) -> ThreadingHTTPServer:
    """A server on a free port, not started yet."""

    class Handler(_Handler):
        state = cluster

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    return Server((cluster.host, 0), Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: FakeKubernetes

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815 - http.server's names

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self._fault()
        if fault and fault.status == 0:
            self.close_connection = True
            return
        try:
            if fault and fault.status > 1:
                raise StatusError(fault.status, "InternalError", "on purpose")
            answer = self._handled(json.loads(body) if body else {})
        except StatusError as error:
            self._send(error.code, error.status, fault.headers if fault else {})
            return
        except _UnknownPathError:
            self._send_bytes(404, b"404 page not found\n", "text/plain")
            return
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            return
        if fault:  # the work is done, the answer is lost
            self.close_connection = True
        elif answer is not None:
            self._send(201 if self.command == "POST" else 200, answer)

    def _fault(self) -> Fault | None:
        with self.state.changed:
            for fault in self.state.faults:
                if fault.count > 0 and fault.method in ("", self.command):
                    fault.count -= 1
                    return fault
        return None

    def _handled(self, body: Object) -> Object | None:
        """The answer; None when it was streamed."""
        account = self.state.account(self.headers.get("Authorization", "").removeprefix("Bearer "))
        url = urlsplit(self.path)
        if url.path == "/version":
            major, minor = self.state.version.removeprefix("v").split(".")[:2]
            return {"major": major, "minor": minor, "gitVersion": self.state.version}
        if url.path == _REVIEWS:
            return self._review(account, body)
        asked = self._asked(url.path, {name: values[-1] for name, values in parse_qs(url.query).items()})
        self._authorize(account, asked)
        if asked.subresource == "log":
            self._stream_log(asked)
            return None
        if asked.method == "GET" and not asked.name:
            if not _is_watch(asked):
                return self._listed(asked)
            self._watch(asked)
            return None
        return self._changed(asked, body)

    def _asked(self, path: str, query: dict[str, str]) -> _Asked:
        found = _PATH.match(path)
        if found is None:
            raise _UnknownPathError
        group, version, plural = found["group"] or "", found["version"], found["plural"]
        kind = self.state.kinds.get((group, version, plural))
        if kind is None:
            raise _UnknownPathError
        return _Asked(self.command, kind, found["namespace"] or "", found["name"] or "", found["sub"] or "", query)

    def _authorize(self, account: str, asked: _Asked) -> None:
        kind = asked.kind
        watching = "watch" if _is_watch(asked) else "list"
        verb = _VERBS.get(asked.method) or ("get" if asked.name else watching)
        resource = f"{kind.plural}/{asked.subresource}" if asked.subresource else kind.plural
        self.state.requests.append(Request(account, verb, resource, asked.name))
        if not self.state.allowed(account, verb, kind.group, resource):
            about = f' "{asked.name}"' if asked.name else ""
            raise StatusError(
                403,
                "Forbidden",
                f'{kind.full_name}{about} is forbidden: User "{account}" cannot {verb} resource "{resource}" '
                f'in API group "{kind.group}" in the namespace "{asked.namespace}"',
                kind,
                asked.name,
            )

    def _review(self, account: str, body: Object) -> Object:
        wanted = body["spec"]["resourceAttributes"]
        sub = wanted.get("subresource")
        resource = f"{wanted['resource']}/{sub}" if sub else wanted["resource"]
        allowed = self.state.allowed(account, wanted["verb"], wanted.get("group", ""), resource)
        return {**body, "metadata": {}, "status": {"allowed": allowed}}

    def _listed(self, asked: _Asked) -> Object:
        items = self.state.objects(asked.kind.full_name, asked.namespace, _labels(asked))
        offset = int(asked.query.get("continue") or 0)
        limit = int(asked.query.get("limit") or 0) or len(items)
        more = {"continue": str(offset + limit)} if offset + limit < len(items) else {}
        with self.state.changed:
            version = str(self.state.events[-1][0] if self.state.events else 0)
        return {
            "apiVersion": f"{asked.kind.group}/{asked.kind.version}".lstrip("/"),
            "kind": f"{asked.kind.kind}List",
            "metadata": {"resourceVersion": version, **more},
            "items": items[offset : offset + limit],
        }

    def _changed(self, asked: _Asked, body: Object) -> Object:
        kind, namespace, name = asked.kind, asked.namespace, asked.name
        strict = asked.query.get("fieldValidation") == "Strict"
        if asked.method == "GET":
            return self.state.get(kind.full_name, namespace, name)
        if asked.method == "POST":
            return self.state.create(kind, namespace, body, strict=strict)
        if asked.method == "DELETE":
            self.state.delete(kind.full_name, namespace, name)
            return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        before = self.state.get(kind.full_name, namespace, name)
        if asked.method == "PATCH":
            if self.headers.get("Content-Type") != "application/merge-patch+json":
                raise StatusError(415, "UnsupportedMediaType", "this stand-in knows merge patches only")
            body = _merged(before, body)
        keep = "spec" if asked.subresource == "status" else "status"
        body = {**body, **({keep: before[keep]} if keep in before else {})}
        return self.state.replace(kind, namespace, name, body, strict=strict)

    def _watch(self, asked: _Asked) -> None:
        with self.state.changed:
            latest = self.state.events[-1][0] if self.state.events else 0
            present = self.state.objects(asked.kind.full_name, asked.namespace, _labels(asked))
        start = int(asked.query.get("resourceVersion") or 0)
        deadline = time.monotonic() + float(asked.query.get("timeoutSeconds") or 3600)
        self._begin_stream("application/json")
        if not start:
            start = latest
            for item in present:
                self._chunk(json.dumps({"type": "ADDED", "object": item}).encode() + b"\n")
        while time.monotonic() < deadline and not self.state.stopping:
            with self.state.changed:
                fresh = [event for event in self.state.events if event[0] > start]
                if not fresh:
                    self.state.changed.wait(0.5)
                    continue
            start = fresh[-1][0]
            for _, event, full_name, item in fresh:
                here = asked.namespace in ("", item["metadata"].get("namespace"))
                if full_name == asked.kind.full_name and here and has_labels(item, _labels(asked)):
                    self._chunk(json.dumps({"type": event, "object": item}).encode() + b"\n")
        self._chunk(b"")

    def _stream_log(self, asked: _Asked) -> None:
        name, namespace = asked.name, asked.namespace
        pod = self.state.get("pods", namespace, name)
        if pod.get("status", {}).get("phase", "Pending") == "Pending":
            container = asked.query.get("container", "")
            message = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            raise StatusError(400, "BadRequest", message)
        self._begin_stream("text/plain")
        sent = 0
        while not self.state.stopping:
            with self.state.changed:
                lines = self.state.log(namespace, name)[sent:]
                if not lines:
                    over = not any(p["metadata"]["name"] == name for p in self.state.objects("pods", namespace))
                    over = over or self.state.get("pods", namespace, name)["status"]["phase"] in ("Succeeded", "Failed")
                    if over or asked.query.get("follow") != "true":
                        break
                    self.state.changed.wait(0.5)
                    continue
            sent += len(lines)
            stamped = asked.query.get("timestamps") == "true"
            self._chunk("".join(f"{at} {line}\n" if stamped else f"{line}\n" for at, line in lines).encode())
            if self.state.cut_logs:
                self.state.cut_logs -= 1
                raise ConnectionResetError
        self._chunk(b"")

    def _begin_stream(self, content: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, code: int, answer: Object, headers: dict[str, str] | None = None) -> None:
        self._send_bytes(code, json.dumps(answer).encode(), "application/json", headers or {})

    def _send_bytes(self, code: int, data: bytes, content: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": content, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _UnknownPathError(Exception):
    """A path that the server does not serve: a type that is not installed, for one."""


def _is_watch(asked: _Asked) -> bool:
    return asked.query.get("watch", "").lower() in ("true", "1")


def _labels(asked: _Asked) -> dict[str, str]:
    words: Iterable[str] = filter(None, asked.query.get("labelSelector", "").split(","))
    return {name.strip(): value.strip() for name, _, value in (word.partition("=") for word in words)}


def _merged(before: Any, change: Any) -> Any:
    """A JSON merge patch (RFC 7386)."""
    if not isinstance(change, dict):
        return change
    base = before if isinstance(before, dict) else {}
    kept = {name: value for name, value in base.items() if name not in change}
    return {**kept, **{name: _merged(base.get(name), value) for name, value in change.items() if value is not None}}
