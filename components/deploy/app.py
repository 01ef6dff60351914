"""The endpoint's routes: SageMaker's, TensorFlow Serving's, the Open Inference Protocol's, metrics and a page."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TypeVar

from jinja2 import Environment
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import millrace
from millrace.components.deploy import answers
from millrace.components.deploy.batching import Batcher, ModelError, OverloadedError, Predict
from millrace.components.deploy.monitoring import Measured, Monitoring
from millrace.components.deploy.payloads import PayloadError
from millrace.components.deploy.reading import Examples, Reading, reading
from millrace.runtime.answers import predictions_body
from millrace.runtime.limits import Limits
from millrace.runtime.schemas import ModelCard
from millrace.runtime.texts import Encoder

__all__ = ["VERSION", "create_app"]

VERSION = "1"
"""The one version of its model that an endpoint has."""

_JSON = "application/json"
_CSV = "text/csv"
_NPY = "application/x-npy"
_BODIES_AT_ONCE = 16
_PARSERS = 2

logger = logging.getLogger("millrace.deploy")
ResultT = TypeVar("ResultT")


@dataclass
class _Service:
    """One model with everything that its routes need."""

    name: str
    card: ModelCard
    revision: str
    limits: Limits
    reading: Reading
    batcher: Batcher
    monitoring: Monitoring
    parsers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_PARSERS, "parse"))
    held: int = 0
    """Bytes of all bodies in memory."""


def create_app(
    load: Callable[[], Predict],
    card: ModelCard,
    *,
    name: str = "model",
    limits: Limits = Limits(),
    failed: Callable[[Exception], None] = lambda error: None,
    revision: str = "",
    encode: Encoder | None = None,
) -> Starlette:
    """The ASGI application that serves one model.

    Args:
        load: Loads the model; called in the thread that then owns it.
        card: What the model takes and answers.
        name: The model's name in URLs.
        limits: What requests are accepted.
        failed: Is told, in the model's thread, when the model can't be loaded.
        revision: Which of an endpoint's revisions this is; told in the model's metadata.
        encode: Makes tokens of texts; needed for a model of texts.
    """
    monitoring = Monitoring()
    batcher = Batcher(load, limits, monitoring.batch)
    service = _Service(name, card, revision, limits, reading(card, limits, encode), batcher, monitoring)
    monitoring.watch(lambda: batcher.waiting, lambda: batcher.ready)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        batcher.start(failed)
        yield
        await asyncio.to_thread(batcher.stop, 3)
        service.parsers.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=_routes(),
        middleware=[Middleware(Measured, monitoring=monitoring)],
        exception_handlers={HTTPException: _refuse, ClientDisconnect: _gone, Exception: _crash},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    return app


def _routes() -> list[Route]:
    v1, v2 = "/v1/models/{model}", "/v2/models/{model}"
    routes = [
        Route("/", _page),
        Route("/metrics", _metrics),
        Route("/ping", _ready),
        Route("/execution-parameters", _execution_parameters),
        Route("/invocations", _invocations, methods=["POST"]),
        Route("/v1/models", _v1_models),
        Route("/v2", _v2_server),
        Route("/v2/health/live", _v2_live),
        Route("/v2/health/ready", _ready),
    ]
    for base in (v1, v1 + "/versions/{version}"):
        # The pattern of the method's route comes first: that of the plain one would take its colon for a name's.
        routes += [Route(base + ":predict", _v1_predict, methods=["POST"]), Route(base, _v1_model)]
    for base in (v2, v2 + "/versions/{version}"):
        routes += [
            Route(base, _v2_model),
            Route(base + "/ready", _v2_model_ready),
            Route(base + "/infer", _v2_infer, methods=["POST"]),
        ]
    return routes


async def _page(request: Request) -> Response:
    service = _service(request)
    source = files("millrace.components.deploy").joinpath("page.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True).from_string(source)
    return HTMLResponse(
        page.render(
            name=service.name,
            card=service.card,
            kind=service.card.records.kind,
            url=str(request.base_url).rstrip("/"),
        ),
        headers={
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
            "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


async def _metrics(request: Request) -> Response:
    text = await asyncio.to_thread(generate_latest, _service(request).monitoring.registry)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _ready(request: Request) -> Response:
    _need_ready(_service(request))
    return JSONResponse({"ready": True})


async def _execution_parameters(request: Request) -> Response:
    limits = _service(request).limits
    megabytes = max(1, int(limits.max_body_mib))
    return JSONResponse(
        {"MaxConcurrentTransforms": _BODIES_AT_ONCE, "BatchStrategy": "MULTI_RECORD", "MaxPayloadInMB": megabytes}
    )


async def _invocations(request: Request) -> Response:
    service = _service(request)
    kind = _content_type(request)
    accept = _accepted(request)
    readers = service.reading.kinds
    is_image = kind.startswith("image/") or kind == "application/x-image"
    reader = readers.get("image/*" if is_image else kind)
    if reader is None:
        raise HTTPException(415, f"content type {kind or 'none'!r}, allowed: {', '.join(readers)}")
    async with _within_limits(request):
        probabilities = await _answer(request, await _body(request, reader))
    classes = service.card.records.classes
    if accept == _CSV:
        return Response(answers.csv_rows(probabilities, classes), media_type=_CSV)
    if accept == _NPY:
        return Response(answers.npy(probabilities), media_type=_NPY)
    return Response(predictions_body(probabilities, classes), media_type=_JSON)


async def _v1_models(request: Request) -> Response:
    return JSONResponse({"models": [_service(request).name]})


async def _v1_model(request: Request) -> Response:
    service = _named(request)
    ready = service.batcher.ready
    status = {
        "version": VERSION,
        "state": "AVAILABLE" if ready else "LOADING",
        "status": {"error_code": "OK", "error_message": ""},
    }
    return JSONResponse({"name": service.name, "ready": ready, "model_version_status": [status]})


async def _v1_predict(request: Request) -> Response:
    service = _named(request)
    # TensorFlow Serving ignores the content type, and its users send what `curl -d` does.
    _need_json(request, allowed=(_JSON, "", "application/x-www-form-urlencoded"))
    async with _within_limits(request):
        examples = await _body(request, service.reading.instances)
        probabilities = await _answer(request, examples)
    return JSONResponse({"predictions": answers.predictions(probabilities, service.card.records.classes)})


async def _v2_server(request: Request) -> Response:
    return JSONResponse({"name": "millrace", "version": millrace.__version__, "extensions": []})


async def _v2_live(request: Request) -> Response:
    return JSONResponse({"live": True})


async def _v2_model(request: Request) -> Response:
    service = _named(request)
    return JSONResponse(answers.metadata(service.name, VERSION, service.card, service.revision))


async def _v2_model_ready(request: Request) -> Response:
    service = _named(request)
    _need_ready(service)
    return JSONResponse({"name": service.name, "ready": True})


async def _v2_infer(request: Request) -> Response:
    service = _named(request)
    _need_json(request, allowed=(_JSON, ""))
    if "inference-header-content-length" in request.headers:
        raise HTTPException(400, "tensors in binary form are not supported: send their data as JSON")
    async with _within_limits(request):
        infer, examples = await _body(request, service.reading.infer)
        probabilities = await _answer(request, examples)
    classes = service.card.records.classes
    return JSONResponse(answers.infer_response(infer, service.name, VERSION, probabilities, classes))


def _service(request: Request) -> _Service:
    service: _Service = request.app.state.service
    return service


def _named(request: Request) -> _Service:
    """The service, when the path names its model and version."""
    service = _service(request)
    model, version = request.path_params["model"], request.path_params.get("version", VERSION)
    if model != service.name:
        raise HTTPException(404, f"unknown model {model[:100]!r}, this endpoint serves {service.name!r}")
    if version != VERSION:
        raise HTTPException(404, f"unknown version {version[:100]!r} of model {model!r}, there is {VERSION!r}")
    return service


def _need_ready(service: _Service) -> None:
    if not service.batcher.ready:
        raise HTTPException(503, "the model is not ready", headers={"Retry-After": "1"})


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _need_json(request: Request, allowed: tuple[str, ...]) -> None:
    kind = _content_type(request)
    if kind not in allowed:
        raise HTTPException(415, f"content type {kind!r}, allowed: {_JSON}")


def _accepted(request: Request) -> str:
    """The first acceptable form of an answer, in the order that the client gives."""
    given = request.headers.get("accept", "") or "*/*"
    for item in given.split(","):
        kind = item.partition(";")[0].strip().lower()
        if kind in (_JSON, "*/*", "application/*"):
            return _JSON
        if kind in (_CSV, "text/*"):
            return _CSV
        if kind == _NPY:
            return _NPY
    raise HTTPException(406, f"can't answer as {given[:200]!r}, possible: {_JSON}, {_CSV}, {_NPY}")


@asynccontextmanager
async def _within_limits(request: Request) -> AsyncIterator[None]:
    """Give a request its time, and its refusals their HTTP status."""
    service = _service(request)
    _need_ready(service)
    try:
        async with asyncio.timeout(service.limits.timeout_seconds):
            yield
    except PayloadError as error:
        raise HTTPException(error.status, str(error)) from error
    except OverloadedError as error:
        raise HTTPException(503, f"{error}; try again", headers={"Retry-After": "1"}) from error
    except ModelError as error:
        raise HTTPException(500, str(error)) from error
    except TimeoutError as error:
        message = f"no answer within {service.limits.timeout_seconds:g} s"
        # The rest of a slow body may never come: don't wait for it.
        raise HTTPException(504, message, headers={"Connection": "close"}) from error


async def _body(request: Request, read: Callable[[bytes, float], ResultT]) -> ResultT:
    """Receive a body and read it, in a thread, so that health checks are answered meanwhile."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise HTTPException(415, f"content encoding {encoding[:100]!r}, allowed: identity")
    service = _service(request)
    end = time.monotonic() + service.limits.timeout_seconds
    async with _received(request) as body:
        return await asyncio.get_running_loop().run_in_executor(service.parsers, read, body, end)


@asynccontextmanager
async def _received(request: Request) -> AsyncIterator[bytes]:
    service = _service(request)
    limit = service.limits.max_body
    too_large = HTTPException(413, f"the body is larger than {service.limits.max_body_mib:g} MiB")
    if int(request.headers.get("content-length", 0)) > limit:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            service.held += len(chunk)
            if len(body) > limit:
                raise too_large
            if service.held > limit * _BODIES_AT_ONCE:
                raise OverloadedError("too many large requests at once")
        yield bytes(body)
    finally:
        service.held -= len(body)


async def _answer(request: Request, examples: Examples) -> answers.Probabilities:
    """Ask the model, unless the client goes away meanwhile."""
    asked = asyncio.ensure_future(_service(request).batcher.predict(examples))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not asked.done():
            raise ClientDisconnect
        return asked.result()
    finally:
        asked.cancel()
        gone.cancel()
        await asyncio.gather(asked, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refuse(request: Request, error: Exception) -> Response:
    status, detail, headers = 500, "internal error", None
    if isinstance(error, HTTPException):
        status, detail, headers = error.status_code, error.detail, error.headers
    return JSONResponse({"error": detail}, status, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


async def _crash(request: Request, error: Exception) -> Response:
    logger.error("a request to %s failed", request.url.path, exc_info=error)
    return JSONResponse({"error": "internal error"}, 500)
