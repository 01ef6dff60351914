"""Objects against the schemas of custom resource definitions, as strictly as `fieldValidation=Strict`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

__all__ = ["Finding", "findings", "load_schema", "with_defaults"]

Schema = dict[str, Any]

_SOURCES = {
    "TrainJob": "kubeflow-trainer/trainer.kubeflow.org_trainjobs.yaml",
    "TrainingRuntime": "kubeflow-trainer/trainer.kubeflow.org_trainingruntimes.yaml",
    "ClusterTrainingRuntime": "kubeflow-trainer/trainer.kubeflow.org_clustertrainingruntimes.yaml",
    "MPIJob": "mpi-operator/mpijob_v2beta1.json",
    "InferenceService": "kserve/inferenceservice_v1beta1.json",
    "Experiment": "katib/experiment.swagger.json",
}
_METADATA = {
    "annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers",
    "generateName", "generation", "labels", "managedFields", "name", "namespace", "ownerReferences",
    "resourceVersion", "selfLink", "uid",
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


class Finding(NamedTuple):
    """What is wrong with an object."""

    path: str
    unknown: bool
    """Whether the schema does not have this field."""
    message: str


@lru_cache(maxsize=16)
def load_schema(contracts: Path, kind: str) -> Schema | None:
    """The schema of a kind, with `definitions` where it has any; None when there is none here."""
    if kind not in _SOURCES:
        return None
    text = (contracts / _SOURCES[kind]).read_text()
    if _SOURCES[kind].endswith(".yaml"):
        document = yaml.load(text, Loader=yaml.CSafeLoader)
        return dict(document["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    document = json.loads(text)
    if "definitions" in document:
        return {"$ref": f"#/definitions/v1beta1.{kind}", "definitions": document["definitions"]}
    return dict(document)


def findings(schema: Schema, value: object) -> list[Finding]:
    """All that a strict API server would refuse: unknown fields, wrong types and values (CEL rules are not checked)."""
    definitions = schema.get("definitions", {})
    return list(_check(schema, value, "", definitions))


def _check(schema: Schema, value: object, path: str, definitions: Mapping[str, Schema]) -> Iterator[Finding]:
    if "$ref" in schema:
        named = definitions.get(schema["$ref"].rpartition("/")[2])
        if named is not None:
            yield from _check(named, value, path, definitions)
        return
    if path == "metadata" and isinstance(value, dict):
        yield from (Finding(f"metadata.{name}", True, "") for name in value if name not in _METADATA)
        return
    if value is None:  # the server drops nulls
        return
    if schema.get("x-kubernetes-int-or-string") or schema.get("format") == "int-or-string":
        yield from _check_int_or_string(schema, value, path)
        return
    kind = schema.get("type", "object" if "properties" in schema else "")
    if kind and (not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield Finding(path, False, f"must be of type {kind}: {json.dumps(value, default=str)}")
        return
    if isinstance(value, dict):
        yield from _check_object(schema, value, path, definitions)
    elif isinstance(value, list):
        yield from _check_array(schema, value, path, definitions)
    else:
        yield from (Finding(path, False, message) for message in _wrong_value(schema, value))


def _check_int_or_string(schema: Schema, value: object, path: str) -> Iterator[Finding]:
    if isinstance(value, bool) or not isinstance(value, int | str):
        yield Finding(path, False, f"must be an integer or a string: {value!r}")
    elif "pattern" in schema and not re.search(schema["pattern"], str(value)):
        yield Finding(path, False, f"should match '{schema['pattern']}': {value!r}")


def _check_object(
    schema: Schema, value: dict[str, Any], path: str, definitions: Mapping[str, Schema]
) -> Iterator[Finding]:
    properties = schema.get("properties", {})
    others = schema.get("additionalProperties")
    loose = schema.get("x-kubernetes-preserve-unknown-fields") or (not properties and others is None)
    for name in schema.get("required", ()):
        if value.get(name) is None:
            yield Finding(f"{path}.{name}".lstrip("."), False, "Required value")
    for name, item in value.items():
        below = f"{path}.{name}".lstrip(".")
        if name in properties:
            yield from _check(properties[name], item, below, definitions)
        elif isinstance(others, dict):
            yield from _check(others, item, below, definitions)
        elif not loose and others is not True:
            yield Finding(below, True, "")


def _check_array(schema: Schema, value: list[Any], path: str, definitions: Mapping[str, Schema]) -> Iterator[Finding]:
    if len(value) > schema.get("maxItems", len(value)):
        yield Finding(path, False, f"must have at most {schema['maxItems']} items")
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen = set()
    for number, item in enumerate(value):
        yield from _check(schema.get("items", {}), item, f"{path}[{number}]", definitions)
        if keys and isinstance(item, dict):
            key = tuple(str(item.get(name)) for name in keys)
            if key in seen:
                yield Finding(f"{path}[{number}]", False, f"Duplicate value: {key}")
            seen.add(key)


def _wrong_value(schema: Schema, value: Any) -> Iterator[str]:
    if "enum" in schema and value not in schema["enum"]:
        yield f"Unsupported value: {value!r}: supported values: {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"should match '{schema['pattern']}': {value!r}"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield f"is too short or too long: {len(value)} characters"
    elif not isinstance(value, bool):
        if "minimum" in schema and value < schema["minimum"]:
            yield f"should be greater than or equal to {schema['minimum']}: {value}"
        if "maximum" in schema and value > schema["maximum"]:
            yield f"should be less than or equal to {schema['maximum']}: {value}"
        if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
            yield f"must be of type int32: {value}"


def with_defaults(schema: Schema, value: Any) -> Any:
    """The object with the schema's defaults filled in, as the server keeps it."""
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        others = schema.get("additionalProperties")
        filled = {name: below["default"] for name, below in properties.items() if "default" in below}
        merged = {**filled, **value}
        return {
            name: with_defaults(properties.get(name, others if isinstance(others, dict) else {}), item)
            for name, item in merged.items()
        }
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    return value
