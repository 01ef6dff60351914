"""Strict parse of a document, as the API server does it, and against what a version of it knows.

The API server stops at the first mistake and ignores unknown fields of `deploymentSpec`; here every
mistake is found, with its path.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, get_args

from millrace.compilers.findings import Finding
from millrace.compilers.kubeflow.document import Document, Path, shown
from millrace.compilers.kubeflow.view import View, before
from millrace.errors import ConfigError, did_you_mean
from millrace.targets.kubeflow import BackendVersion

__all__ = ["since", "strict_parse"]

_NEWEST = get_args(BackendVersion)[-1]
_DURATION = re.compile(r"-?\d+(\.\d{1,9})?s")


def strict_parse(document: Document, compat: BackendVersion) -> tuple[list[Finding], View | None]:
    """All that a strict parse finds, and the document in its canonical form unless it can't be parsed at all."""
    pipeline, kubernetes = _messages()
    spec = document.pipeline
    single = _single_platform(document.platform)
    executors = _under(single, "deploymentSpec", "executors")
    found = [
        *_walk(spec, pipeline.PipelineSpec.DESCRIPTOR, (), compat),
        *_walk(
            spec.get("deploymentSpec", {}), pipeline.PipelineDeploymentConfig.DESCRIPTOR, ("deploymentSpec",), compat
        ),
        *_walk(document.platform or {}, pipeline.PlatformSpec.DESCRIPTOR, (), compat),
    ]
    place: Path = ("platforms", "kubernetes", "deploymentSpec", "executors")
    for label, config in executors.items():
        found += _walk(config, kubernetes.KubernetesExecutorConfig.DESCRIPTOR, (*place, label), compat)
    parsed, problem = _canonical(document, executors)
    if problem and not any(finding.severity == "error" for finding in found):
        found.append(problem)
    return found, parsed


def _canonical(document: Document, executors: Mapping[str, Any]) -> tuple[View | None, Finding | None]:
    from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

    pipeline, kubernetes = _messages()

    def through(value: Any, message: Any) -> dict[str, Any]:
        parsed = MessageToDict(ParseDict(value, message(), ignore_unknown_fields=True))
        ordered: dict[str, Any] = json.loads(json.dumps(parsed, sort_keys=True))  # maps come in any order
        return ordered

    try:
        spec = through(document.pipeline, pipeline.PipelineSpec)
        deployment = through(spec.get("deploymentSpec", {}), pipeline.PipelineDeploymentConfig)
        platform = through(document.platform or {}, pipeline.PlatformSpec)
        pods = {label: through(config, kubernetes.KubernetesExecutorConfig) for label, config in executors.items()}
    except (ParseError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return None, Finding("error", "", f"the backend can't parse this: {error}")
    single = _under(platform, "platforms", "kubernetes")
    return View(
        pipeline=spec,
        components={"root": spec.get("root", {}), **spec.get("components", {})},
        executors=deployment.get("executors", {}),
        pods=pods,
        config=single.get("pipelineConfig", {}),
    ), None


def _single_platform(platform: Mapping[str, Any] | None) -> dict[str, Any]:
    return _under(platform or {}, "platforms", "kubernetes")


def _under(value: Any, *keys: str) -> dict[str, Any]:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def _messages() -> tuple[Any, Any]:
    """Generated modules of the pipeline spec and of the Kubernetes settings."""
    try:
        from kfp.kubernetes import kubernetes_executor_config_pb2
        from kfp.pipeline_spec import pipeline_spec_pb2
    except ImportError as error:
        raise ConfigError(f"checking needs the package {error.name}: pip install -e '.[kubeflow]'") from error
    return pipeline_spec_pb2, kubernetes_executor_config_pb2


@cache
def _known() -> Mapping[str, Mapping[str, str]]:
    """By message or enum: the first version, as `2.15`, that knows each of its fields or values."""
    import yaml

    text = files("millrace.compilers.kubeflow").joinpath("fields.yaml").read_text()
    table = next(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))["known"]
    return {
        owner: {name: version.rpartition(".")[0] for version, names in versions.items() for name in names}
        for owner, versions in table.items()
    }


def since(owner: str, name: str) -> str | None:
    """The first backend version that knows a field or an enum's value; None when none does."""
    return _known().get(owner, {}).get(name)


def _age(owner: str, name: str, what: str, path: Path, compat: BackendVersion) -> Iterator[Finding]:
    first = since(owner, name)
    if first is None:
        yield Finding(
            "error", shown(path), f"no version of Kubeflow Pipelines up to {_NEWEST} knows the {what} {name!r}"
        )
    elif before(compat, first):
        yield Finding(
            "error", shown(path), f"Kubeflow Pipelines {compat} does not know this {what}: it is known from {first} on"
        )


def _walk(value: Any, message: Any, path: Path, compat: BackendVersion) -> Iterator[Finding]:
    """Compare plain data with a message's fields."""
    if message.full_name in _WELL_KNOWN:
        fits, wanted = _WELL_KNOWN[message.full_name]
        if not fits(value):
            yield _wrong(value, wanted, path)
        return
    if not isinstance(value, Mapping):
        yield _wrong(value, "a mapping", path)
        return
    fields = {field.name: field for field in message.fields} | {field.json_name: field for field in message.fields}
    chosen: dict[str, str] = {}
    for key, item in value.items():
        field = fields.get(key)
        if field is None:
            hint = did_you_mean(key, (field.json_name for field in message.fields))
            yield Finding("error", shown((*path, key)), f"unknown field of {message.name}: {hint}")
            continue
        if item is None and not (field.message_type and field.message_type.full_name == "google.protobuf.Value"):
            continue
        if newer := list(_age(message.full_name, field.name, "field", (*path, key), compat)):
            yield from () if _is_ignored(path) and not item else newer
            continue
        if field.containing_oneof is not None:
            other = chosen.setdefault(field.containing_oneof.name, key)
            if other != key:
                yield Finding("error", shown((*path, key)), f"{other!r} is set, too; only one of them can be")
        yield from _field(item, field, (*path, key), compat)


def _is_ignored(path: Path) -> bool:
    """Whether the backend passes over unknown fields in this place: there one without a value does no harm."""
    return path[:1] == ("deploymentSpec",) or path[2:4] == ("deploymentSpec", "executors")


def _field(value: Any, field: Any, path: Path, compat: BackendVersion) -> Iterator[Finding]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        item = field.message_type.fields_by_name["value"]
        if not isinstance(value, Mapping):
            yield _wrong(value, "a mapping", path)
            return
        for key, inner in value.items():
            yield from _one(inner, item, (*path, key), compat)
    elif field.is_repeated:
        if not isinstance(value, list):
            yield _wrong(value, "a list", path)
            return
        for index, inner in enumerate(value):
            yield from _one(inner, field, (*path, index), compat)
    else:
        yield from _one(value, field, path, compat)


def _one(value: Any, field: Any, path: Path, compat: BackendVersion) -> Iterator[Finding]:
    if field.message_type is not None:
        yield from _walk(value, field.message_type, path, compat)
    elif field.enum_type is not None:
        yield from _enum(value, field.enum_type, path, compat)
    else:
        fits, wanted = _SCALARS[field.cpp_type]
        if not fits(value):
            yield _wrong(value, wanted, path)


def _enum(value: Any, enum: Any, path: Path, compat: BackendVersion) -> Iterator[Finding]:
    names = {item.name: item.name for item in enum.values} | {item.number: item.name for item in enum.values}
    if not isinstance(value, str | int) or isinstance(value, bool) or value not in names:
        hint = did_you_mean(str(value), (item.name for item in enum.values))
        yield Finding("error", shown(path), f"unknown value {value!r}: {hint}")
        return
    yield from _age(enum.full_name, names[value], "value", path, compat)


def _wrong(value: Any, wanted: str, path: Path) -> Finding:
    text = repr(value)
    return Finding("error", shown(path), f"{wanted} is needed, given {text if len(text) < 60 else text[:57] + '...'}")


def _is_whole(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"-?\d+", value) is not None
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def _is_number(value: Any) -> bool:
    if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.\d+)?([eE][-+]?\d+)?", value):
        return False
    return not isinstance(value, bool) and isinstance(value, str | int | float) and _is_double(value)


def _is_double(value: str | float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


Check = tuple[Callable[[Any], bool], str]
_WELL_KNOWN: Mapping[str, Check] = {
    "google.protobuf.Struct": (lambda value: isinstance(value, Mapping), "a mapping"),
    "google.protobuf.Value": (lambda value: True, "a value"),
    "google.protobuf.ListValue": (lambda value: isinstance(value, list), "a list"),
    "google.protobuf.Duration": (
        lambda value: isinstance(value, str) and _DURATION.fullmatch(value) is not None,
        "a duration in seconds such as '30s'",
    ),
}
_WHOLE: Check = (_is_whole, "a whole number")
_NUMBER: Check = (_is_number, "a number")
_SCALARS: Mapping[int, Check] = {  # by FieldDescriptor.CPPTYPE_*
    1: _WHOLE,
    2: _WHOLE,
    3: _WHOLE,
    4: _WHOLE,
    5: _NUMBER,
    6: _NUMBER,
    7: (lambda value: isinstance(value, bool), "true or false"),
    9: (lambda value: isinstance(value, str), "text"),
}
