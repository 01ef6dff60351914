"""Prometheus metrics of an endpoint, and the ASGI middleware that counts requests."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Measured", "Monitoring"]


class Monitoring:
    """Metrics of one endpoint, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "millrace_requests", "Requests answered.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "millrace_request_seconds",
            "Time to answer, the body's arrival included.",
            ("route",),
            registry=self.registry,
        )
        self._batches = Histogram(
            "millrace_batch_images",
            "Images given to the model at once.",
            buckets=[2**power for power in range(11)],
            registry=self.registry,
        )
        self._waiting = Gauge("millrace_waiting_images", "Images that wait for the model.", registry=self.registry)
        self._ready = Gauge("millrace_ready", "1 when the model is loaded.", registry=self.registry)

    def watch(self, waiting: Callable[[], int], ready: Callable[[], bool]) -> None:
        """Read the gauges from these functions."""
        self._waiting.set_function(waiting)
        self._ready.set_function(ready)

    def batch(self, images: int) -> None:
        """Count one batch."""
        self._batches.observe(images)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class Measured:
    """Counts each request under its route's pattern: paths themselves are the clients' to make up."""

    def __init__(self, app: ASGIApp, monitoring: Monitoring) -> None:
        self._app = app
        self._monitoring = monitoring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 499  # the client went away before an answer

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = 500  # written by Starlette further out
            raise
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._monitoring.request(method, route, status, time.perf_counter() - started)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
