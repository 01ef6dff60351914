"""A stand-in for KServe: its rules for revisions, traffic and canaries, real model servers, and a gateway.

It plays the controller of a `FakeKubernetes`. Each revision is a process of our own server with the variables of the
manifest's container; the gateway finds it by the Host header and splits requests as KServe would. Autoscaling, storage
and pods are not real: a model's address is looked up in `models`, and pods are objects without a kubelet.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.cluster.fake_kubernetes import FakeKubernetes, StatusError

__all__ = ["SERVICES", "FakeKServe", "Servers"]

SERVICES = "inferenceservices.serving.kserve.io"

Object = dict[str, Any]

_AT_LEAST_SECONDS = 0.5


@dataclass
class _Server:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def state(self) -> str:
        """starting, ready, or the last line of a server that ended."""
        if self.process.poll() is not None:
            return self.log.read_text().strip().splitlines()[-1]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{self.url}/ping", trust_env=False, timeout=5).is_success:
                return "ready"
        return "starting"


class Servers:
    """Model servers by what they serve and are told; equal ones are shared, for they take seconds to start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[tuple[Any, ...], _Server] = {}

    def start(self, model: Path, variables: dict[str, str]) -> _Server:
        key = (model, *sorted(variables.items()))
        if key not in self._known:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
            log = self.folder / f"server-{len(self._known)}.log"
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "millrace", "serve", "--model-dir", str(model), "--port", str(port)],
                env={**os.environ, **variables},
                stdout=subprocess.DEVNULL,
                stderr=log.open("wb"),
            )
            self._known[key] = _Server(process, f"http://127.0.0.1:{port}", log)
        return self._known[key]

    def close(self) -> None:
        for server in self._known.values():
            server.process.kill()
            server.process.wait()


@dataclass
class _Revision:
    name: str
    predictor: Object
    server: _Server
    made: float = field(default_factory=time.monotonic)

    def state(self) -> str:
        """That of its server, which may be a shared one: a new revision is never ready at once."""
        return self.server.state() if time.monotonic() - self.made > _AT_LEAST_SECONDS else "starting"


@dataclass
class _Service:
    """What the controller knows of one InferenceService."""

    revisions: list[_Revision] = field(default_factory=list)
    ready: str = ""
    rolled_out: str = ""
    canary: _Revision | None = None
    stable: _Revision | None = None

    def revision(self, name: str) -> _Revision:
        return next(item for item in self.revisions if item.name == name)


class FakeKServe:
    """The controller and its gateway; use it as a context manager."""

    def __init__(self, kubernetes: FakeKubernetes, servers: Servers, models: dict[str, Path]) -> None:
        self.kubernetes = kubernetes
        self.servers = servers
        self.models = models
        """Folder of each model's address: what the storage initializer would bring."""
        self.routes: dict[str, list[tuple[int, str]]] = {}
        """By host: shares in percent, each with the URL of a server."""
        self.history: list[dict[str, int]] = []
        """Shares of the revisions, each time that they changed."""
        self._services: dict[tuple[str, str], _Service] = {}
        self._stop = threading.Event()
        self._count = 0
        self._client = httpx.AsyncClient(trust_env=False, timeout=60)
        app = Starlette(routes=[Route("/{path:path}", self._forward, methods=["GET", "POST"])])
        self._gateway = uvicorn.Server(uvicorn.Config(app, ws="none", log_config=None, timeout_graceful_shutdown=1))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.gateway = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._gateway.run, kwargs={"sockets": [self._listener]}, daemon=True),
            threading.Thread(target=self._control, daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._gateway.should_exit = True
        for thread in self._threads:
            thread.join(10)

    async def _forward(self, request: Request) -> Response:
        shares = self.routes.get(request.headers["host"])
        if not shares:
            return Response("no healthy upstream", 503)
        self._count += 1
        point = self._count * 37 % 100  # 37 and 100 have no common factor: every hundredth request is elsewhere
        limits = itertools.accumulate(share for share, _ in shares)
        url = next(url for limit, (_, url) in zip(limits, shares, strict=True) if point < limit)
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        query = f"{url}{request.url.path}"
        answer = await self._client.request(request.method, query, content=await request.body(), headers=headers)
        kept = {name: answer.headers[name] for name in ("content-type",) if name in answer.headers}
        return Response(answer.content, answer.status_code, kept)

    def _control(self) -> None:
        while not self._stop.wait(0.1):
            for current in self.kubernetes.objects(SERVICES, labels={"app.kubernetes.io/managed-by": "millrace"}):
                place = (current["metadata"]["namespace"], current["metadata"]["name"])
                service = self._services.setdefault(place, _Service())
                standard = current["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
                status = self._standard(service, current) if standard else self._knative(service, current)
                status["deploymentMode"] = "Standard" if standard else "Knative"
                namespace, name = place
                status["url"] = f"http://{name}.{namespace}.example.com"
                status["address"] = {"url": f"http://{name}.{namespace}.svc.cluster.local"}
                if current.get("status") != status:
                    with contextlib.suppress(StatusError):  # it may just have been deleted
                        self.kubernetes.set_status(SERVICES, namespace, name, status)

    def _start(self, current: Object, name: str, predictor: Object) -> _Revision:
        variables = {item["name"]: item["value"] for item in predictor["containers"][0]["env"] if "value" in item}
        model = self.models.get(variables.pop("STORAGE_URI"), Path("/nonexistent"))
        return _Revision(name, predictor, self.servers.start(model, variables))

    def _knative(self, service: _Service, current: Object) -> Object:
        """Rules of KServe's Knative reconciler: a new template is a new revision; traffic by percent and tag."""
        predictor = dict(current["spec"]["predictor"])
        percent = predictor.pop("canaryTrafficPercent", None)
        place = f"{current['metadata']['name']}-predictor"
        if not service.revisions or service.revisions[-1].predictor != predictor:
            name = f"{place}-{len(service.revisions) + 1:05d}"
            service.revisions.append(self._start(current, name, predictor))
        newest = service.revisions[-1]
        state = newest.state()
        self._pod(current, newest, state)
        if state == "ready":
            service.ready = newest.name
        host = f"{place}.{current['metadata']['namespace']}.example.com"
        traffic: list[Object] = []
        if service.ready:
            share = 100 if percent is None or not service.rolled_out else percent
            latest = {"latestRevision": True, "revisionName": service.ready, "percent": share}
            traffic.append({**latest, "tag": "latest", "url": f"http://latest-{host}"})
            if share < 100:
                before = {"latestRevision": False, "revisionName": service.rolled_out, "percent": 100 - share}
                traffic.append({**before, "tag": "prev", "url": f"http://prev-{host}"})
            if share == 100:
                service.rolled_out = service.ready
        for item in traffic:
            self.routes[item["url"].removeprefix("http://")] = [
                (100, service.revision(item["revisionName"]).server.url)
            ]
        shares = [(item["percent"], service.revision(item["revisionName"]).server.url) for item in traffic]
        told: dict[str, int] = {}
        for item in traffic:
            told[item["revisionName"][-5:]] = told.get(item["revisionName"][-5:], 0) + item["percent"]
        self._split(current, shares, told)
        is_ready = state == "ready"
        return {
            "conditions": _conditions(is_ready, "" if is_ready or state == "starting" else f"RevisionFailed: {state}"),
            "components": {
                "predictor": {
                    "latestCreatedRevision": newest.name,
                    "latestReadyRevision": service.ready,
                    "latestRolledoutRevision": service.rolled_out,
                    "traffic": traffic,
                }
            },
        }

    def _standard(self, service: _Service, current: Object) -> Object:
        """Rules of KServe's raw reconciler: a Deployment that rolls over, and one beside it for a canary."""
        name = current["metadata"]["name"]
        predictor = current["spec"]["predictor"]
        if not service.revisions or service.revisions[-1].predictor != predictor:
            service.revisions.append(self._start(current, f"{name}-predictor", predictor))
        newest = service.revisions[-1]
        state = newest.state()
        if state == "ready":
            service.stable = newest
        self._pods_of(current, [item for item in (service.stable, newest) if item is not None], state)
        shares = [] if service.stable is None else [(100, service.stable.server.url)]
        told = {} if service.stable is None else {service.stable.predictor["annotations"]["millrace.dev/revision"]: 100}
        status: Object = {"conditions": _conditions(service.stable is not None, "")}
        for entry in current["spec"].get("canary", ()):
            if service.canary is None or service.canary.predictor != entry["predictor"]:
                service.canary = self._start(current, f"{name}-canary-predictor", entry["predictor"])
            canary_state = service.canary.state()
            self._pod(current, service.canary, canary_state)
            up = canary_state == "ready"
            status["canaryStatuses"] = [{"name": "canary", "ready": up, "trafficPercent": entry["trafficPercent"]}]
            if up:
                host = f"{name}-canary-predictor.{current['metadata']['namespace']}.svc.cluster.local"
                self.routes[host] = [(100, service.canary.server.url)]
                share = entry["trafficPercent"]
                shares = [(share, service.canary.server.url), (100 - share, shares[0][1])]
                told = {service.canary.predictor["annotations"]["millrace.dev/revision"]: share,
                        **dict.fromkeys(told, 100 - share)}  # fmt: skip
        if not current["spec"].get("canary") and service.canary is not None:
            self._remove_pod(current, service.canary)
            service.canary = None
        self._split(current, shares, told)
        return status

    def _split(self, current: Object, shares: list[tuple[int, str]], told: dict[str, int]) -> None:
        host = f"{current['metadata']['name']}.{current['metadata']['namespace']}.example.com"
        self.routes[host] = shares
        if told and (not self.history or self.history[-1] != told):
            self.history.append(told)

    def _pods_of(self, current: Object, living: list[_Revision], state: str) -> None:
        """Pods of the Deployment: the ready one until the newest is ready, too."""
        for item in living:
            self._pod(current, item, "ready" if item is not living[-1] else state)
        wanted = {item.predictor["annotations"]["millrace.dev/revision"] for item in living}
        for earlier in self._services[(current["metadata"]["namespace"], current["metadata"]["name"])].revisions:
            if earlier.predictor["annotations"]["millrace.dev/revision"] not in wanted:
                self._remove_pod(current, earlier)

    def _pod(self, current: Object, revision: _Revision, state: str) -> None:
        namespace, name = current["metadata"]["namespace"], current["metadata"]["name"]
        waiting = {"reason": "CrashLoopBackOff", "message": "back-off restarting"}
        ended = {"exitCode": revision.server.process.returncode, "reason": "Error", "message": state}
        failed = {"restartCount": 3, "state": {"waiting": waiting}, "lastState": {"terminated": ended}}
        fine: Object = {"restartCount": 0, "state": {"running": {}}}
        container = {"name": "kserve-container", **(fine if state in ("ready", "starting") else failed)}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": _pod_name(revision),
                "namespace": namespace,
                "labels": {"serving.kserve.io/inferenceservice": name},
                "annotations": dict(revision.predictor.get("annotations", {})),
            },
            "status": {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": "True" if state == "ready" else "False"}],
                "containerStatuses": [container],
            },
        }
        self.kubernetes.put("pods", pod)

    def _remove_pod(self, current: Object, revision: _Revision) -> None:
        with contextlib.suppress(StatusError):
            self.kubernetes.delete("pods", current["metadata"]["namespace"], _pod_name(revision))


def _pod_name(revision: _Revision) -> str:
    digest = revision.predictor.get("annotations", {}).get("millrace.dev/revision", "")
    return f"{revision.name}-{digest[:6]}"


def _conditions(ready: bool, failure: str) -> list[Object]:
    status = "True" if ready else "False" if failure else "Unknown"
    reason, _, message = failure.partition(": ")
    why = {"reason": reason, "message": message} if failure else {}
    return [{"type": kind, "status": status, **why} for kind in ("PredictorReady", "Ready")]
