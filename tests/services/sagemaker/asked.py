"""Requests to AWS, taken apart and held against the service's own shapes."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import botocore.session

__all__ = ["Call", "read_call", "wrong_fields"]

_BY_TARGET = {
    "SageMaker": "sagemaker",
    "Logs_20140328": "logs",
    "AmazonEC2ContainerRegistry_V20150921": "ecr",
    "ServiceQuotasV20190624": "service-quotas",
    "AnyScaleFrontendService": "application-autoscaling",
}
_BY_PATH = ("scheduler", "sagemaker-runtime")
_PYTHON: Mapping[str, Any] = {
    "structure": dict,
    "list": list,
    "map": dict,
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": (int, float),
    "double": (int, float),
}


class Call(NamedTuple):
    """One request."""

    service: str
    operation: str
    asked: dict[str, Any]
    """Parameters, where the protocol says them; for S3 the path."""
    key: str
    """Access key id that signed it."""
    region: str

    @property
    def name(self) -> str:
        """`sagemaker:CreatePipeline` for one."""
        return f"{self.service}:{self.operation}"


def read_call(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Call:
    """What a request asks for; operations of S3 are the method and the path."""
    scope = re.search(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/", headers.get("authorization", ""))
    key, region, signed = scope.groups() if scope else ("", "us-east-1", "s3")
    prefix, _, operation = headers.get("x-amz-target", "").partition(".")
    if prefix in _BY_TARGET:
        return Call(_BY_TARGET[prefix], operation, json.loads(body or b"{}"), key, region)
    for service in _BY_PATH:
        if signed == model(service).signing_name:
            for name in model(service).operation_names:
                asked = _from_path(service, name, method, path)
                if asked is not None:
                    return Call(service, name, asked | _body(service, name, body), key, region)
    if signed in ("sts", "iam"):
        fields = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        return Call(signed, fields.pop("Action", ""), fields, key, region)
    return Call(signed, f"{method} {unquote(path)}{f'?{query}' if query else ''}", {}, key, region)


def wrong_fields(call: Call) -> list[str]:
    """What of a request its service's shape does not allow: unknown and missing fields, types, enums, patterns,
    lengths and ranges. Nothing for protocols that are not read."""
    if call.service not in (*_BY_TARGET.values(), *_BY_PATH):
        return []
    shape = model(call.service).operation_model(call.operation).input_shape
    return list(_wrong(shape, call.asked, "")) if shape is not None else []


@functools.cache
def model(service: str) -> Any:
    """The service's model, as botocore has it."""
    return botocore.session.get_session().get_service_model(service)


def _from_path(service: str, name: str, method: str, path: str) -> dict[str, Any] | None:
    http = model(service).operation_model(name).http
    fields = re.findall(r"{(\w+)\+?}", http["requestUri"])
    pattern = re.sub(r"{\w+\+?}", "([^/]+)", http["requestUri"].partition("?")[0])
    found = re.fullmatch(pattern, path)
    if found is None or http["method"] != method:
        return None
    return dict(zip(fields, map(unquote, found.groups()), strict=True))


def _body(service: str, name: str, body: bytes) -> dict[str, Any]:
    shape = model(service).operation_model(name).input_shape
    if shape is not None and "payload" in shape.serialization:
        return {shape.serialization["payload"]: body}
    return dict(json.loads(body)) if body else {}


def _wrong(shape: Any, value: Any, path: str) -> Iterator[str]:
    wanted = _PYTHON.get(shape.type_name, object)  # blobs and moments are anything
    good = isinstance(value, wanted) and (shape.type_name == "boolean" or type(value).__name__ != "bool")
    if not good:
        yield f"{path}: a {shape.type_name} is needed, not {value!r}"
    elif shape.type_name == "structure":
        yield from (f"{path}.{name}: unknown" for name in value.keys() - shape.members.keys())
        yield from (f"{path}.{name}: missing" for name in set(shape.required_members) - value.keys())
        for name in value.keys() & shape.members.keys():
            yield from _wrong(shape.members[name], value[name], f"{path}.{name}")
    elif shape.type_name == "list":
        yield from _bounds(shape, len(value), path)
        for index, item in enumerate(value):
            yield from _wrong(shape.member, item, f"{path}[{index}]")
    elif shape.type_name == "map":
        yield from _bounds(shape, len(value), path)
        for name, item in value.items():
            yield from _wrong(shape.key, name, f"{path}({name})")
            yield from _wrong(shape.value, item, f"{path}.{name}")
    elif shape.type_name == "string":
        yield from _wrong_text(shape, value, path)
    elif shape.type_name in ("integer", "long", "float", "double"):
        yield from _bounds(shape, value, path)


def _wrong_text(shape: Any, value: str, path: str) -> Iterator[str]:
    yield from _bounds(shape, len(value), path)
    if shape.enum and value not in shape.enum:
        yield f"{path}: {value!r} is none of {shape.enum}"
    pattern = re.sub(
        r"\\p\{([LNZ])\}", lambda found: r"\s" if found[1] == "Z" else r"\w", shape.metadata.get("pattern", "")
    )
    # Java writes what is beyond the first plane as pairs of surrogates
    pattern = pattern.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    pattern = pattern.replace(r"\p{Print}", "[ -~]")
    if pattern and not re.fullmatch(pattern, value):
        yield f"{path}: {value[:100]!r} does not match {pattern}"


def _bounds(shape: Any, size: float, path: str) -> Iterator[str]:
    low, high = (shape.metadata.get(name) for name in ("min", "max"))
    if (low is not None and size < low) or (high is not None and size > high):
        yield f"{path}: {size} is not within {low}..{high}"
