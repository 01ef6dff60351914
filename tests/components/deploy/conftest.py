"""A tiny real model in plain NumPy, and a real HTTP server around it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette

from millrace.components.deploy.app import create_app
from millrace.runtime.limits import Limits
from millrace.runtime.schemas import ImageRecords, ModelCard

CLASSES = ("zero", "one", 'two, "quoted"')
SCHEMA = ImageRecords(height=4, width=6, channels=1, encoding="png", resize="stretch", classes=CLASSES)
CARD = ModelCard(format="litert", name="linear", records=SCHEMA, parameters=72, bytes=288)
_WEIGHTS = np.random.default_rng(7).normal(size=(24, len(CLASSES))).astype(np.float32) / 100


@dataclass
class Linear:
    """Softmax over a fixed linear map; remembers the sizes of the batches that it was given."""

    seconds: float = 0.0
    sizes: list[int] = field(default_factory=list)

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.sizes.append(len(images))
        time.sleep(self.seconds)
        scores = images.reshape(len(images), -1).astype(np.float32) @ _WEIGHTS
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities: NDArray[np.float32] = powers / powers.sum(axis=1, keepdims=True)
        return probabilities


def pictures(count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images, uint8 [N, 4, 6, 1]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 6, 1), dtype=np.uint8)


@contextmanager
def serving(app: Starlette, before_ready: Callable[[str], None] = lambda url: None) -> Iterator[str]:
    """Serve an app on a free port, in a thread, and wait until its model is ready."""
    server = uvicorn.Server(uvicorn.Config(app, http="h11", ws="none", log_config=None, timeout_graceful_shutdown=5))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        before_ready(url)
        deadline = time.monotonic() + 20
        while httpx.get(f"{url}/ping", trust_env=False).status_code != httpx.codes.OK:
            assert time.monotonic() < deadline, "the server is not ready"
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join(10)


def linear_app(model: Callable[..., Any] | None = None, **limits: float) -> Starlette:
    """An app around a model, a fresh `Linear` when none is given."""
    return create_app(lambda: model or Linear(), CARD, name="digits", limits=Limits.model_validate(limits))


@pytest.fixture(scope="session")
def endpoint() -> Iterator[httpx.Client]:
    """A client of an endpoint with ordinary limits."""
    with serving(linear_app()) as url, httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client
