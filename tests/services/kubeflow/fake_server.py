"""A stand-in for the API server of Kubeflow Pipelines: it keeps what it is given, in memory.

It speaks the paths, the filters and the JSON of v2beta1 as the Go server does: 64-bit numbers are texts, moments
that never were are the beginning of 1970, nodes of the workflow are listed without their own ids. It starts no
pods: a test says how a run goes.
"""

from __future__ import annotations

import email
import email.policy
import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
"""Where a kube context leads."""
NEVER = "1970-01-01T00:00:00Z"
Item = dict[str, Any]
Query = dict[str, str]


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class FakeKubeflow:
    """What the server keeps, and switches that make it behave badly."""

    def __init__(self) -> None:
        self.url = ""
        self.reset()

    def reset(self) -> None:
        """Forget everything, and behave well."""
        self.pipelines: dict[str, Item] = {}
        self.versions: dict[str, Item] = {}
        self.files: dict[str, bytes] = {}
        """The uploaded files by version id, byte for byte."""
        self.experiments: dict[str, Item] = {}
        self.runs: dict[str, Item] = {}
        self.schedules: dict[str, Item] = {}
        self.logs: dict[str, str] = {}
        """By pod."""
        self.pods: dict[str, str] = {}
        """Names of workflow nodes by pod, for those who ask the cluster itself."""
        self.steps: dict[str, list[dict[str, str]]] = {}
        """How runs go, by id: the states of tasks at each look; the key `run` is the run's own state."""
        self.token: str | None = None
        self.cookie: str | None = None
        self.tag = "2.17.0"
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.broken: Callable[[str, str], RefusalError | str | None] = lambda method, path: None
        """Called before each request: a RefusalError is answered, "close" ends the connection without an answer, "lost"
        does what is asked and then ends it, other texts are answered as HTML."""
        self.lock = threading.RLock()
        self.add_experiment("Default")

    def add_experiment(self, name: str, state: str = "AVAILABLE") -> str:
        made = _new("experiment_id", display_name=name, storage_state=state)
        self.experiments[made["experiment_id"]] = made
        return str(made["experiment_id"])

    def firing(self) -> list[Item]:
        """Schedules that start runs."""
        return [item for item in self.schedules.values() if item["status"] == "ENABLED"]

    def answer(self, method: str, path: str, query: Query, body: Item, file: bytes) -> Item:
        for verb, pattern, action in _ROUTES:
            found = re.fullmatch(pattern, path)
            if verb == method and found:
                with self.lock:
                    return action(self, query, body, file, *map(unquote, found.groups()))
        raise RefusalError(404, "Not Found")


def _new(key: str, **fields: object) -> Item:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {key: str(uuid.uuid4()), "created_at": now, **{name: item for name, item in fields.items() if item}}


def _listed(items: Iterator[Item] | Any, key: str, query: Query) -> Item:
    found = list(items)
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        field, value = predicate["key"], predicate.get("string_value", predicate.get("stringValue"))
        test = _TESTS[predicate["operation"]]
        found = [item for item in found if test(str(item.get(field, "")), value)]
    if query.get("sort_by"):
        field, _, order = query["sort_by"].partition(" ")
        found.sort(key=lambda item: str(item.get(field)), reverse=order == "desc")
    start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 20)
    page: Item = {key: found[start : start + size], "total_size": len(found)}
    return page | ({"next_page_token": str(start + size)} if len(found) > start + size else {})


def _like(text: str, value: str) -> bool:
    """As the database does: `_` is any character, `%` any text, and case is no matter."""
    return bool(re.search(re.escape(value).replace("_", ".").replace("%", ".*"), text, re.IGNORECASE))


_TESTS: dict[object, Callable[[str, str], bool]] = {"EQUALS": str.__eq__, 1: str.__eq__, "IS_SUBSTRING": _like}


def _found(items: dict[str, Item], name: str) -> Item:
    if name not in items:
        raise RefusalError(404, f"ResourceNotFoundError: {name} not found")
    return items[name]


def _create_pipeline(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    if any(item["name"] == body["name"] for item in fake.pipelines.values()):
        raise RefusalError(409, f"The name {body['name']} already exists. Please specify a new name.")
    made = _new("pipeline_id", **body)
    fake.pipelines[made["pipeline_id"]] = made
    return made


def _upload(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    made = _create_pipeline(fake, {}, {"name": query["name"], "display_name": query["name"]}, b"")
    _upload_version(fake, {"name": query["name"], "pipelineid": made["pipeline_id"]}, {}, file)
    return made


def _upload_version(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    name, pipeline = query["name"], _found(fake.pipelines, query["pipelineid"])["pipeline_id"]
    if any((item["pipeline_id"], item["name"]) == (pipeline, name) for item in fake.versions.values()):
        raise RefusalError(409, f"The name {name} already exists. Please specify a new name.")
    parts = [part for part in yaml.safe_load_all(file) if part]
    if not parts or "pipelineInfo" not in parts[0]:
        raise RefusalError(400, "Failed to create a pipeline version: invalid pipeline spec")
    spec = {"pipeline_spec": parts[0], **({"platform_spec": parts[1]} if parts[1:] else {})}
    made = _new("pipeline_version_id", pipeline_id=pipeline, name=name, display_name=name, pipeline_spec=spec)
    fake.versions[made["pipeline_version_id"]] = made
    fake.files[made["pipeline_version_id"]] = file
    return made


def _create_run(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    _found(fake.experiments, body["experiment_id"])
    if body.get("pipeline_version_reference"):
        _found(fake.versions, body["pipeline_version_reference"]["pipeline_version_id"])
    made = _new("run_id", **body, state="PENDING", storage_state="AVAILABLE", finished_at=NEVER)
    fake.runs[made["run_id"]] = made
    return made


def _get_run(fake: FakeKubeflow, query: Query, body: Item, file: bytes, name: str) -> Item:
    run = _found(fake.runs, name)
    steps = fake.steps.get(name, [])
    if steps:
        _go_on(run, steps.pop(0) if len(steps) > 1 else steps[0])
    return run


def _go_on(run: Item, states: dict[str, str]) -> None:
    """Set the states of the nodes as the persistence agent would: a driver, a DAG and an executor for each task."""
    run["state"] = states.get("run", "RUNNING")
    over = run["state"] in ("SUCCEEDED", "FAILED", "CANCELED")
    run["finished_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) if over else NEVER
    nodes = [("root-driver", "SUCCEEDED", ""), ("root", run["state"], "")]
    for key, state in states.items():
        if key != "run":
            task, _, number = key.partition("#")
            nodes += [(f"{task}-driver", "SUCCEEDED", ""), (task, state, f"work-x7k2p-{_number(task, number)}")]
            nodes.append(("executor", state, ""))
    begun = run["created_at"]
    run["run_details"] = {
        "task_details": [
            {
                "run_id": run["run_id"],
                "task_id": str(uuid.uuid4()),
                "display_name": name,
                "create_time": begun,
                "start_time": begun,
                "end_time": begun if state in ("SUCCEEDED", "FAILED", "SKIPPED") else NEVER,
                "state": state,
                "execution_id": "0",
                **({"child_tasks": [{"pod_name": child}]} if child else {}),
            }
            for name, state, child in nodes
        ]
    }


def _number(task: str, number: str) -> int:
    return 1000 + 10 * sum(map(ord, task)) + int(number or 0)


def pod_of(task: str) -> str:
    """The pod's name, as Argo makes it from the node's id and the template's name."""
    return f"work-x7k2p-system-container-impl-{_number(task, '')}"


def _terminate(fake: FakeKubeflow, query: Query, body: Item, file: bytes, name: str) -> Item:
    _found(fake.runs, name)["state"] = "CANCELED"
    return {}


def _create_schedule(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    cron = body["trigger"].get("cron_schedule", {}).get("cron", "0 0 0 * * *")
    if not cron.startswith("@") and len(cron.split()) not in (5, 6):
        raise RefusalError(400, "Schedule cron is not a supported format. Error: Expected 5 to 6 fields")
    if not 1 <= int(body["max_concurrency"]) <= 10:
        raise RefusalError(400, "Max concurrency of a recurring run must be at least 1 and at most 10")
    _found(fake.versions, body["pipeline_version_reference"]["pipeline_version_id"])
    made = _new("recurring_run_id", **body, status=f"{body['mode']}D")
    made["no_catchup"] = body["no_catchup"]
    fake.schedules[made["recurring_run_id"]] = made
    return made


def _switch(fake: FakeKubeflow, query: Query, body: Item, file: bytes, name: str, action: str) -> Item:
    _found(fake.schedules, name)["status"] = f"{action.upper()}D"
    return {}


def _create_experiment(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    if any(item["display_name"] == body["display_name"] for item in fake.experiments.values()):
        raise RefusalError(409, "already exists")
    return fake.experiments[fake.add_experiment(body["display_name"])]


def _by_name(fake: FakeKubeflow, query: Query, body: Item, file: bytes, name: str) -> Item:
    return next((item for item in fake.pipelines.values() if item["name"] == name), None) or _found({}, name)


def _versions_of(fake: FakeKubeflow, query: Query, body: Item, file: bytes, name: str) -> Item:
    own = [item for item in fake.versions.values() if item["pipeline_id"] == name]
    return _listed(own, "pipeline_versions", query)


def _health(fake: FakeKubeflow, query: Query, body: Item, file: bytes) -> Item:
    return {"commit_sha": "0123456", "tag_name": fake.tag, "multi_user": False, "pipeline_store": "database"}


def _gone(items: str) -> Callable[..., Item]:
    def delete(fake: FakeKubeflow, query: Query, body: Item, file: bytes, name: str) -> Item:
        kept: dict[str, Item] = getattr(fake, items)
        _found(kept, name)
        del kept[name]
        return {}

    return delete


def _list(items: str, key: str) -> Callable[..., Item]:
    return lambda fake, query, body, file: _listed(getattr(fake, items).values(), key, query)


_ID = "([^/:]+)"
_ROUTES: list[tuple[str, str, Callable[..., Item]]] = [
    ("GET", "/healthz", _health),
    ("POST", "/pipelines", _create_pipeline),
    ("GET", "/pipelines", _list("pipelines", "pipelines")),
    ("POST", "/pipelines/upload", _upload),
    ("POST", "/pipelines/upload_version", _upload_version),
    ("GET", f"/pipelines/names/{_ID}", _by_name),
    ("GET", f"/pipelines/{_ID}/versions", _versions_of),
    ("GET", f"/pipelines/[^/]+/versions/{_ID}", lambda fake, query, body, file, name: _found(fake.versions, name)),
    ("GET", "/experiments", _list("experiments", "experiments")),
    ("POST", "/experiments", _create_experiment),
    ("GET", "/runs", _list("runs", "runs")),
    ("POST", "/runs", _create_run),
    ("GET", f"/runs/{_ID}", _get_run),
    ("DELETE", f"/runs/{_ID}", _gone("runs")),
    ("POST", f"/runs/{_ID}:terminate", _terminate),
    ("GET", "/recurringruns", _list("schedules", "recurringRuns")),
    ("POST", "/recurringruns", _create_schedule),
    ("DELETE", f"/recurringruns/{_ID}", _gone("schedules")),
    ("POST", f"/recurringruns/{_ID}:(enable|disable)", _switch),
]


class _Handler(BaseHTTPRequestHandler):
    fake: FakeKubeflow
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        parts = urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.fake.requests.append((self.command, parts.path))
        self.fake.headers.append(dict(self.headers))
        trouble = self.fake.broken(self.command, parts.path)
        if trouble == "close":
            self.close_connection = True
        elif isinstance(trouble, str) and trouble != "lost":
            self.send(200, trouble.encode(), "text/html")
        else:
            status, answer = self.served(parts.path, dict(parse_qsl(parts.query)), data, trouble)
            if trouble == "lost":
                self.close_connection = True
            elif isinstance(answer, str):
                self.send(status, answer.encode(), "text/plain")
            else:
                self.send(status, json.dumps(answer).encode(), "application/json")

    do_GET = do_POST = do_DELETE = do  # noqa: N815 - http.server's names

    def served(self, path: str, query: Query, data: bytes, trouble: object) -> tuple[int, Item | str]:
        try:
            if isinstance(trouble, RefusalError) and trouble.status == 404:  # another server
                return 404, str(trouble)
            if isinstance(trouble, RefusalError):
                raise trouble
            if self.fake.token and self.headers.get("authorization") != f"Bearer {self.fake.token}":
                raise RefusalError(401, f"Request not authenticated: {self.headers.get('authorization')}")
            if self.fake.cookie and self.headers.get("cookie") != self.fake.cookie:
                raise RefusalError(401, "no session")
            return self.found(path.removeprefix(PROXY), query, data)
        except RefusalError as refusal:
            return refusal.status, {"error": str(refusal), "code": 13, "message": str(refusal), "details": []}

    def found(self, path: str, query: Query, data: bytes) -> tuple[int, Item | str]:
        pods = "/api/v1/namespaces/kubeflow/pods"
        if path == "/k8s/pod/logs":
            return self.log(query["podname"])
        if path == pods:
            nodes = {name: {"workflows.argoproj.io/node-name": node} for name, node in self.fake.pods.items()}
            return 200, {"items": [{"metadata": {"name": name, "annotations": nodes[name]}} for name in nodes]}
        if path.startswith(f"{pods}/"):
            return self.log(path.split("/")[-2])
        return 200, self.fake.answer(self.command, path.removeprefix("/apis/v2beta1"), query, *self.content(data))

    def log(self, pod: str) -> tuple[int, str]:
        if pod not in self.fake.logs:
            return 404, "pod not found"
        return 200, self.fake.logs[pod]

    def content(self, data: bytes) -> tuple[Item, bytes]:
        kind = self.headers.get("content-type", "")
        if kind.startswith("multipart/"):
            whole = f"Content-Type: {kind}\r\n\r\n".encode() + data
            parts = list(email.message_from_bytes(whole, policy=email.policy.HTTP).walk())
            return {}, cast("bytes", parts[1].get_payload(decode=True))
        return json.loads(data or b"{}"), b""

    def send(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        if status in (301, 302):
            self.send_header("location", "https://login.example.org/dex?state=secret")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        return


@contextmanager
def serving(fake: FakeKubeflow, tls: ssl.SSLContext | None = None) -> Iterator[FakeKubeflow]:
    """Serve on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
