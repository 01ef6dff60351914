"""A compiled definition as the services see it: its text, the name it goes by, and what it leaves open."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import JsonValue

from millrace.compilers.sagemaker.images import elsewhere, outside_ecr, push_command
from millrace.compilers.sagemaker.walk import every_field, every_step
from millrace.errors import ConfigError, DataError, UnsupportedError
from millrace.services.parameters import Kind, OpenField, given_values
from millrace.targets.sagemaker import SageMaker

__all__ = ["Document", "given_parameters", "images_of", "read_document", "refuse_images", "with_cache"]

_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,255}")
_LONGEST_VALUE = 1024
_KINDS: Mapping[str, Kind] = {"String": "text", "Boolean": "boolean", "Integer": "integer", "Float": "number"}


@dataclass(frozen=True)
class Document:
    """A compiled pipeline."""

    name: str
    """Of the pipeline in SageMaker; the definition itself does not hold it."""
    text: str
    """Exactly what was compiled."""

    @cached_property
    def definition(self) -> dict[str, Any]:
        """The definition in it."""
        parsed: dict[str, Any] = json.loads(self.text)
        return parsed

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """The parameters that it declares, by name."""
        return {str(item["Name"]): item for item in self.definition.get("Parameters") or []}

    @property
    def steps(self) -> dict[str, Mapping[str, Any]]:
        """All steps in the order of the document, those under conditions too, by name."""
        return {str(step["Name"]): step for step in every_step(self.definition["Steps"])}


def read_document(text: str, name: str, source: str = "the document") -> Document:
    """Read a compiled definition.

    Raises:
        DataError: When it is none.
        ConfigError: When the pipeline's name is none for SageMaker.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"pipeline.name={name!r}: SageMaker takes letters, digits and `-` between them, 256 at most: give another"
        )
    try:
        definition = json.loads(text)
    except ValueError as error:
        raise DataError(f"{source} is no JSON: {error}") from None
    if not isinstance(definition, dict) or not isinstance(definition.get("Steps"), list):
        raise DataError(
            f"{source} holds no pipeline definition (no Steps): write one with `millrace compile target=sagemaker`"
        )
    return Document(name, text)


def with_cache(document: Document, cache: bool | None) -> Document:
    """The document without any caching, where that is asked for: SageMaker has no such switch for one execution.

    Raises:
        ConfigError: When caching is asked for and the document has none.
    """
    cached = [step for step in document.steps.values() if (step.get("CacheConfig") or {}).get("Enabled")]
    if cache is None or (cache and cached):
        return document
    if cache:
        raise ConfigError(
            "submit.cache=true: no step of this document reuses results, and SageMaker has no switch for one "
            "execution: compile with target.cache=true"
        )
    if not cached:
        return document
    definition = json.loads(document.text)
    for step in every_step(definition["Steps"]):
        if isinstance(step, dict):
            step.pop("CacheConfig", None)
    return Document(document.name, json.dumps(definition, indent=1, ensure_ascii=False) + "\n")


def refuse_images(document: Document, target: SageMaker) -> None:
    """Refuse a document with images that SageMaker can't pull: it takes them from ECR only, from its own region.

    Raises:
        UnsupportedError: Naming them and the command that pushes them.
    """
    images = images_of(document)
    wrong = outside_ecr(images)
    if wrong:
        raise UnsupportedError(
            f"SageMaker pulls images from ECR only, and {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} not "
            f"there: push them with `{push_command(target.region)}`, which writes the digests that the next compile "
            "takes"
        )
    far = elsewhere(images, target.region)
    if far:
        raise UnsupportedError(
            f"SageMaker pulls images from ECR in its own region only, and {', '.join(far)} "
            f"{'is' if len(far) == 1 else 'are'} in another than target.region={target.region}: push them with "
            f"`{push_command(target.region)}`, which writes the digests that the next compile takes, or change "
            "target.region"
        )


def images_of(document: Document) -> set[str]:
    """All images that jobs and models of a document run in."""
    names = ("ImageUri", "TrainingImage", "Image")
    return {
        value for key, value in every_field(document.definition["Steps"]) if key in names and isinstance(value, str)
    }


def given_parameters(document: Document, given: Mapping[str, JsonValue]) -> dict[str, str]:
    """Values for a document's parameters as the service takes them: texts, under the names that they have there.

    Args:
        document: The compiled document.
        given: By dotted name (`train.epochs`), by the document's own (`train_epochs`), or nested.

    Raises:
        ConfigError: On an unknown name, a value of the wrong type or one that is not allowed.
    """
    fields = {
        name: OpenField(
            _KINDS.get(str(declared.get("Type")), "text"),
            "DefaultValue" not in declared,
            tuple(declared.get("EnumValues") or ()),
        )
        for name, declared in document.parameters.items()
    }
    return {name: _text(name, value) for name, value in given_values(fields, given).items()}


def _text(name: str, value: JsonValue) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    if not text or len(text) > _LONGEST_VALUE:
        raise ConfigError(
            f"submit.parameters.{name}: SageMaker takes 1 to {_LONGEST_VALUE} characters (given: {len(text)})"
        )
    return text
