"""A batch transform job: every object is sent to the model's containers, and their answers are stored beside it."""

from __future__ import annotations

import contextlib
import gzip
import json
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

from millrace.errors import MillraceError, TaskFailedError
from millrace.runners.sagemaker.front import post
from millrace.runners.sagemaker.place import Ended, Place
from millrace.runners.sagemaker.servers import Server, open_server
from millrace.runners.sagemaker.staging import Item, bucket_and_key, explained, find_items, read_object

__all__ = ["records_of", "requests_of", "transform"]

_MIB = 1024 * 1024
_PAYLOAD = 6
"""MiB of a request when nobody says how many."""
_SECONDS = 600.0
_NO_ARCHIVE = (
    "ValidationException: the model has a ModelDataSource, which batch transform does not take: give it a "
    "ModelDataUrl, the URI of a model.tar.gz"
)


@dataclass(frozen=True)
class _Way:
    """How requests are made."""

    concurrent: int
    """Requests at the same time to each instance."""
    payload: int
    """Bytes of the largest request; 0 has no limit."""
    several: bool
    """Several records in a request."""


def transform(place: Place, name: str, arguments: Mapping[str, Any], container: Mapping[str, Any]) -> Ended:
    """Run a transform job to its end.

    Args:
        place: Where it runs.
        name: Its name.
        arguments: A CreateTransformJob request without open expressions.
        container: Of the model; `EnableNetworkIsolation` in it is the model's.

    Raises:
        TaskFailedError: When the rehearsal was stopped, or this machine failed.
    """
    properties = {
        **arguments,
        "TransformJobName": name,
        "TransformJobArn": place.arn("transform-job", name),
        "TransformJobStatus": "Completed",
    }
    source = arguments["TransformInput"]["DataSource"]["S3DataSource"]
    instances = int(arguments["TransformResources"]["InstanceCount"])
    plain = {key: value for key, value in container.items() if key != "EnableNetworkIsolation"}
    given = {**(plain.get("Environment") or {}), **(arguments.get("Environment") or {}), **_told(arguments)}
    logs: tuple[Any, ...] = ()
    if "ModelDataSource" in container:
        return _failed(_NO_ARCHIVE, properties, logs)
    try:
        items = find_items(place, source["S3Uri"], source["S3DataType"])
        isolated = bool(container.get("EnableNetworkIsolation"))
        with open_server(place, name, {**plain, "Environment": given}, instances, isolated=isolated) as server:
            logs = server.logs
            failures = _send_all(place, server, arguments, items)
    except TaskFailedError as error:
        return _failed(str(error), properties, logs)
    if failures:
        more = f" ({len(failures)} of {len(items)} objects failed)" if len(items) > 1 else ""
        return _failed(f"{failures[0]}{more}", properties, logs)
    return Ended("Completed", "", properties, logs)


def _failed(reason: str, properties: Mapping[str, Any], logs: tuple[Any, ...]) -> Ended:
    return Ended("Failed", reason, {**properties, "TransformJobStatus": "Failed", "FailureReason": reason}, logs)


def _told(arguments: Mapping[str, Any]) -> dict[str, str]:
    """What the service tells the container about the job."""
    found = {"SAGEMAKER_BATCH": "true"}
    for key, name in (
        ("MaxConcurrentTransforms", "SAGEMAKER_MAX_CONCURRENT_TRANSFORMS"),
        ("MaxPayloadInMB", "SAGEMAKER_MAX_PAYLOAD_IN_MB"),
        ("BatchStrategy", "SAGEMAKER_BATCH_STRATEGY"),
    ):
        if key in arguments:
            value = arguments[key]
            found[name] = {"MultiRecord": "MULTI_RECORD", "SingleRecord": "SINGLE_RECORD"}.get(value, str(value))
    return found


def _way(arguments: Mapping[str, Any], url: str) -> _Way:
    """As the job says, else as the container says, else as is usual."""
    said = _execution_parameters(url)
    strategy = arguments.get("BatchStrategy") or said.get("BatchStrategy") or "MultiRecord"
    payload = arguments.get("MaxPayloadInMB", said.get("MaxPayloadInMB", _PAYLOAD))
    concurrent = arguments.get("MaxConcurrentTransforms") or said.get("MaxConcurrentTransforms") or 1
    return _Way(int(concurrent), int(payload) * _MIB, str(strategy).upper().replace("_", "") == "MULTIRECORD")


def _execution_parameters(url: str) -> Mapping[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with contextlib.suppress(OSError, ValueError), opener.open(f"{url}/execution-parameters", timeout=10) as answer:
        found = json.load(answer)
        if isinstance(found, dict):
            return found
    return {}


def _send_all(place: Place, server: Server, arguments: Mapping[str, Any], items: list[Item]) -> list[str]:
    """Send every object; why objects failed."""
    way = _way(arguments, server.url)
    turn = count()
    failures: list[str] = []

    def send(item: Item) -> None:
        url = server.urls[next(turn) % len(server.urls)]
        try:
            _send(place, url, arguments, item, way)
        except MillraceError as error:
            failures.append(str(error))

    with ThreadPoolExecutor(len(server.urls) * way.concurrent) as pool:
        list(pool.map(send, items))
    return failures


def _send(place: Place, url: str, arguments: Mapping[str, Any], item: Item, way: _Way) -> None:
    given, output = arguments["TransformInput"], arguments["TransformOutput"]
    content = read_object(place, f"s3://{item.bucket}/{item.key}")
    if given.get("CompressionType") == "Gzip":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError):
            raise TaskFailedError(f"{item.name}: no gzip, as CompressionType says") from None
    headers = {"Content-Type": given.get("ContentType") or "application/octet-stream"}
    if output.get("Accept"):
        headers["Accept"] = output["Accept"]
    client = arguments.get("ModelClientConfig") or {}
    answers = []
    for body in requests_of(content, given.get("SplitType", "None"), way.several, way.payload, item.name):
        answers.append(_answer(url, body, headers, client, item.name))
    ending = b"\n" if output.get("AssembleWith") == "Line" else b""
    bucket, key = bucket_and_key(place, output["S3OutputPath"])
    target = "/".join(part for part in (key.rstrip("/"), f"{item.name}.out") if part)
    with explained(f"s3://{bucket}/{target}"):
        place.client.put_object(Bucket=bucket, Key=target, Body=b"".join(answer + ending for answer in answers))


def _answer(url: str, body: bytes, headers: Mapping[str, str], client: Mapping[str, Any], name: str) -> bytes:
    """A container's answer; tried again where the job says so."""
    tries = 1 + int(client.get("InvocationsMaxRetries", 0))
    seconds = float(client.get("InvocationsTimeoutInSeconds", _SECONDS))
    told = ""
    for _ in range(tries):
        try:
            status, _, answer = post(url, body, headers, seconds)
        except OSError as error:
            told = f"no answer: {error}"
            continue
        if 200 <= status < 300:
            return answer
        told = f"Bad HTTP status received from algorithm: {status} {answer[:500].decode(errors='replace')}"
    raise TaskFailedError(f"{name}: {told}")


def records_of(content: bytes) -> list[bytes]:
    """Lines without their ends; empty ones are no records."""
    return [line.removesuffix(b"\r") for line in content.split(b"\n") if line.strip()]


def requests_of(content: bytes, split: str, several: bool, most: int, name: str) -> Iterator[bytes]:
    """The bodies of the requests for one object.

    Args:
        content: Of the object.
        split: SplitType.
        several: Whether a request holds as many records as it may.
        most: Bytes of the largest request; 0 has no limit.
        name: Of the object.

    Raises:
        TaskFailedError: When a record is larger than a request may be.
    """
    batch: list[bytes] = []
    size = 0
    for record in [content] if split == "None" else records_of(content):
        if most and len(record) > most:
            raise TaskFailedError(f"{name}: {len(record)} bytes are more than MaxPayloadInMB={most // _MIB} allows")
        if batch and (not several or (most and size + len(record) + 1 > most)):
            yield b"\n".join(batch)
            batch, size = [], 0
        batch.append(record)
        size += len(record) + 1
    if batch:
        yield b"\n".join(batch)
