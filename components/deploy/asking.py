"""Ask an endpoint over HTTP, in each of its protocols, and compare with the model's own answers."""

from __future__ import annotations

import base64
import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from millrace.components.deploy.answers import Probabilities
from millrace.components.deploy.image_payloads import INPUT, Images
from millrace.components.deploy.text_payloads import INPUT as TEXT
from millrace.runtime.limits import Limits

__all__ = [
    "PROTOCOLS",
    "SAGEMAKER",
    "TENSORFLOW",
    "Address",
    "Asker",
    "Protocols",
    "Questions",
    "accuracy",
    "agreement",
    "latency_ms",
    "requests_per_second",
    "unready",
]

Questions = NDArray[Any]
"""What is asked: images, uint8 [N, H, W, C]; or objects [N], texts or rows, each row a dictionary."""

Asker = Callable[[httpx.Client, str, Questions], list[tuple[str, list[float]]]]
"""Asks about examples: client, the model's name, examples -> the label and the probabilities of each."""

_TOLERANCE = 1e-4  # other batch sizes change the order of additions
_JSON_BYTES_A_PIXEL = 5


def _json(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    return _predictions(client.post("/invocations", json={"instances": images.tolist()}))


def _npy(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    stream = io.BytesIO()
    np.save(stream, images)
    return _predictions(client.post("/invocations", content=stream.getvalue(), headers=_content("application/x-npy")))


def _csv(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    text = "\n".join(",".join(map(str, row)) for row in images.reshape(len(images), -1).tolist())
    return _predictions(client.post("/invocations", content=text, headers=_content("text/csv")))


def _image(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    asked = (client.post("/invocations", content=_png(one), headers=_content("image/png")) for one in images)
    return [answer for response in asked for answer in _predictions(response)]


def _v1(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    instances = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
    return _predictions(client.post(f"/v1/models/{name}:predict", json={"instances": instances}))


def _v2(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    tensor = {"name": INPUT, "shape": list(images.shape), "datatype": "UINT8", "data": images.ravel().tolist()}
    return _infer(client, name, tensor)


def _infer(client: httpx.Client, name: str, *tensors: dict[str, Any]) -> list[tuple[str, list[float]]]:
    response = client.post(f"/v2/models/{name}/infer", json={"inputs": tensors})
    outputs: dict[str, Any] = {output["name"]: output for output in _checked(response)["outputs"]}
    rows = np.reshape(outputs["probabilities"]["data"], outputs["probabilities"]["shape"]).tolist()
    return list(zip(outputs["label"]["data"], rows, strict=True))


def _tensorflow(client: httpx.Client, name: str, images: Images) -> list[tuple[str, list[float]]]:
    """TensorFlow Serving, with the signature that takes encoded images."""
    instances = [{"b64": base64.b64encode(_png(image)).decode()} for image in images]
    answers = _checked(client.post(f"/v1/models/{name}:predict", json={"instances": instances}))["predictions"]
    return [(answer["labels"], answer["probabilities"]) for answer in answers]


def _json_texts(client: httpx.Client, name: str, texts: Questions) -> list[tuple[str, list[float]]]:
    return _predictions(client.post("/invocations", json={"instances": texts.tolist()}))


def _csv_texts(client: httpx.Client, name: str, texts: Questions) -> list[tuple[str, list[float]]]:
    stream = io.StringIO()
    csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([text] for text in texts)
    return _predictions(client.post("/invocations", content=stream.getvalue(), headers=_content("text/csv")))


def _plain_texts(client: httpx.Client, name: str, texts: Questions) -> list[tuple[str, list[float]]]:
    asked = (client.post("/invocations", content=text.encode(), headers=_content("text/plain")) for text in texts)
    return [answer for response in asked for answer in _predictions(response)]


def _v1_texts(client: httpx.Client, name: str, texts: Questions) -> list[tuple[str, list[float]]]:
    instances = [{TEXT: text} for text in texts]
    return _predictions(client.post(f"/v1/models/{name}:predict", json={"instances": instances}))


def _v2_texts(client: httpx.Client, name: str, texts: Questions) -> list[tuple[str, list[float]]]:
    return _infer(client, name, {"name": TEXT, "shape": [len(texts)], "datatype": "BYTES", "data": texts.tolist()})


def _json_rows(client: httpx.Client, name: str, rows: Questions) -> list[tuple[str, list[float]]]:
    return _predictions(client.post("/invocations", json={"instances": rows.tolist()}))


def _csv_rows(client: httpx.Client, name: str, rows: Questions) -> list[tuple[str, list[float]]]:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return _predictions(client.post("/invocations", content=stream.getvalue(), headers=_content("text/csv")))


def _v1_rows(client: httpx.Client, name: str, rows: Questions) -> list[tuple[str, list[float]]]:
    return _predictions(client.post(f"/v1/models/{name}:predict", json={"instances": rows.tolist()}))


def _v2_rows(client: httpx.Client, name: str, rows: Questions) -> list[tuple[str, list[float]]]:
    columns = {column: [row[column] for row in rows] for column in rows[0]}
    return _infer(client, name, *(_column(column, values) for column, values in columns.items()))


def _column(name: str, values: list[Any]) -> dict[str, Any]:
    kind = "BYTES" if any(isinstance(value, str) for value in values) else "FP64"
    return {"name": name, "shape": [len(values)], "datatype": kind, "data": values}


class Protocols(NamedTuple):
    """What an endpoint can be asked by, the cheapest first."""

    images: Mapping[str, Asker]
    texts: Mapping[str, Asker]
    rows: Mapping[str, Asker]

    def about(self, questions: Questions) -> Mapping[str, Asker]:
        """Those for questions of this kind."""
        if questions.dtype.kind != "O":
            return self.images
        return self.texts if isinstance(questions[0], str) else self.rows


PROTOCOLS = Protocols(
    images={"npy": _npy, "json": _json, "csv": _csv, "image": _image, "v1": _v1, "v2": _v2},
    texts={"json": _json_texts, "csv": _csv_texts, "text": _plain_texts, "v1": _v1_texts, "v2": _v2_texts},
    rows={"json": _json_rows, "csv": _csv_rows, "v1": _v1_rows, "v2": _v2_rows},
)
"""Those of our own server."""
SAGEMAKER = Protocols(
    images={"npy": _npy, "json": _json, "csv": _csv, "image": _image},
    texts={"json": _json_texts, "csv": _csv_texts, "text": _plain_texts},
    rows={"json": _json_rows, "csv": _csv_rows},
)
"""Those that an endpoint of SageMaker hands on: all by `/invocations`."""
TENSORFLOW = Protocols(images={"tensorflow": _tensorflow}, texts={}, rows={})
"""Those of TensorFlow Serving, which can't make tokens or features."""


class Address(NamedTuple):
    """Where an endpoint is asked, and how."""

    url: str
    name: str
    """The model's name."""
    host: str = ""
    """Host header, for gateways that serve several endpoints; empty takes that of the URL."""
    protocols: Protocols = PROTOCOLS
    transport: httpx.BaseTransport | None = None
    """What carries the requests; None is HTTP to the URL."""


def agreement(
    address: Address, questions: Questions, own: Probabilities, classes: tuple[str, ...], limits: Limits
) -> dict[str, float]:
    """For each protocol the share of answers that equal the model's own.

    Args:
        address: Where the endpoint answers.
        questions: What to ask.
        own: The model's own probabilities, float32 [N, classes].
        classes: Class names by index.
        limits: Limits of the endpoint, for the size of requests.

    Raises:
        httpx.HTTPError: When a request fails or is refused.
    """
    shares = {}
    with _client(address, limits) as client:
        for protocol, ask in address.protocols.about(questions).items():
            given = _in_parts(partial(ask, client, address.name), questions, limits)
            equal = [_equal(answer, expected, classes) for answer, expected in zip(given, own, strict=True)]
            shares[protocol] = sum(equal) / len(equal)
    return shares


def accuracy(
    address: Address, questions: Questions, labels: NDArray[Any], classes: tuple[str, ...], limits: Limits
) -> float:
    """The share of questions for which the endpoint gives the right label.

    Raises:
        httpx.HTTPError: When a request fails or is refused.
    """
    with _client(address, limits) as client:
        given = _in_parts(partial(_quick(address, questions), client, address.name), questions, limits)
    right = [label == classes[int(index)] for (label, _), index in zip(given, labels, strict=True)]
    return sum(right) / len(right)


def latency_ms(address: Address, questions: Questions, limits: Limits) -> float:
    """Median time of requests with one question each, in milliseconds."""
    ask = _quick(address, questions)
    with _client(address, limits) as client:
        seconds = [
            _timed(partial(ask, client, address.name, questions[index : index + 1])) for index in range(len(questions))
        ]
    return statistics.median(seconds) * 1000


def requests_per_second(
    address: Address, questions: Questions, limits: Limits, *, clients: int = 8, seconds: float = 1.0
) -> float:
    """Requests with one question each that are answered in a second to several clients at once."""
    one = _quick(address, questions)

    def ask(offset: int, client: httpx.Client) -> int:
        done = 0
        while not done or time.perf_counter() < deadline:
            index = (offset + done) % len(questions)
            one(client, address.name, questions[index : index + 1])
            done += 1
        return done

    with ExitStack() as stack, ThreadPoolExecutor(clients) as pool:
        # opened before the clock runs: on a busy machine that alone can take the whole second
        opened = [stack.enter_context(_client(address, limits)) for _ in range(clients)]
        started = time.perf_counter()
        deadline = started + seconds
        total = sum(pool.map(ask, range(clients), opened))
        return total / (time.perf_counter() - started)


def unready(address: Address, revision: str, limits: Limits) -> str:
    """Why an endpoint is not ready, or answers as another revision than this; empty when it is ready."""
    try:
        with _client(address, limits) as client:
            if address.protocols is not PROTOCOLS:
                _checked(client.get(f"/v1/models/{address.name}"))
                return ""
            _checked(client.get("/ping"))
            told = _checked(client.get(f"/v2/models/{address.name}"))["parameters"].get("revision", "unknown")
    except httpx.HTTPError as error:
        return f"{address.url}: {str(error) or type(error).__name__}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{address.url} is not answered by Millrace's server"
    return "" if told == revision else f"it still answers as revision {told}, not {revision}"


def _quick(address: Address, questions: Questions) -> Asker:
    return next(iter(address.protocols.about(questions).values()))


def _in_parts(
    ask: Callable[[Questions], list[tuple[str, list[float]]]], questions: Questions, limits: Limits
) -> list[tuple[str, list[float]]]:
    """Answers about any number of questions, in requests that the endpoint accepts."""
    step = max(1, min(limits.max_instances, limits.max_body // _json_bytes(questions)))
    return [one for start in range(0, len(questions), step) for one in ask(questions[start : start + step])]


def _json_bytes(questions: Questions) -> int:
    """Of the largest question, at most."""
    if questions.dtype.kind == "O":
        return 2 * max(len(json.dumps(one)) for one in questions) + 50
    return int(questions[0].size) * _JSON_BYTES_A_PIXEL


def _client(address: Address, limits: Limits) -> httpx.Client:
    headers = {"Host": address.host} if address.host else {}
    seconds = limits.timeout_seconds + 5
    return httpx.Client(
        base_url=address.url, headers=headers, timeout=seconds, trust_env=False, transport=address.transport
    )


def _predictions(response: httpx.Response) -> list[tuple[str, list[float]]]:
    return [(answer["label"], answer["probabilities"]) for answer in _checked(response)["predictions"]]


def _checked(response: httpx.Response) -> Any:
    """The body of a good answer; the message of a bad one is the server's own."""
    if response.is_success:
        return response.json()
    asked = f"{response.request.method} {response.request.url.path}"
    message = f"{asked} answered {response.status_code}: {response.text[:500]}"
    raise httpx.HTTPStatusError(message, request=response.request, response=response)


def _equal(answer: tuple[str, list[float]], own: NDArray[np.float32], classes: tuple[str, ...]) -> bool:
    label, probabilities = answer
    close = len(probabilities) == len(own) and np.allclose(probabilities, own, rtol=0, atol=_TOLERANCE)
    return bool(close and label in classes and own[classes.index(label)] >= own.max() - _TOLERANCE)


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _png(image: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(stream, "PNG")
    return stream.getvalue()


def _content(kind: str) -> dict[str, str]:
    return {"Content-Type": kind}
