"""Which objects in S3 a definition reads and writes, as patterns for a policy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from millrace.compilers.sagemaker.walk import every_field, pattern_of

__all__ = ["Place", "packages_of", "places_of", "widest"]

_WRITTEN = ("S3OutputPath", "DestinationS3Uri")
_URI = re.compile(r"s3://[^\s\"'\\,\]}]+")
_PACKAGE = re.compile(r"arn:aws[\w-]*:sagemaker:[\w-]+:\d{12}:model-package/[\w./-]+")


class Place(NamedTuple):
    """Objects in S3."""

    pattern: str
    """`BUCKET/KEY`, where `*` is what only a run knows."""
    writes: bool


def places_of(steps: Iterable[Mapping[str, Any]], bucket: str, prefix: str) -> list[Place]:
    """The objects, in order.

    Args:
        steps: Of the definition.
        bucket: What stands for the bucket that runs write to, where a parameter names it.
        prefix: Below which they write in it.
    """
    return sorted(set(_all_places(list(steps), bucket, prefix)))


def _all_places(steps: Iterable[Mapping[str, Any]], bucket_name: str, prefix: str) -> Iterator[Place]:
    for key, value in every_field(steps):
        text = pattern_of(value, bucket_name)
        if not text.startswith("s3://") or "*" in text.removeprefix("s3://").partition("/")[0]:
            continue
        place = text.removeprefix("s3://")
        bucket, _, path = place.partition("/")
        writes = key in _WRITTEN or (key == "S3Uri" and path.startswith(f"{prefix}/"))
        yield Place(f"{bucket}/{_below(path)}", writes)
    for text in _parameters(steps):
        for uri in _URI.findall(text):
            bucket, _, path = uri.removeprefix("s3://").partition("/")
            yield Place(f"{bucket}/{_below(path)}", writes=False)


def packages_of(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """ARNs of the model packages that parameters name."""
    return sorted({arn for text in _parameters(steps) for arn in _PACKAGE.findall(text)})


def _parameters(steps: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What components are told, as text: in their command lines and as hyperparameters."""
    for step in steps:
        words = step.get("Arguments", {}).get("AppSpecification", {}).get("ContainerArguments", ())
        yield "".join(word for word in words if isinstance(word, str))
    for key, value in every_field(steps):
        if key in ("HyperParameters", "StaticHyperParameters"):
            yield from (text for text in value.values() if isinstance(text, str))


def _below(path: str) -> str:
    """All that is at or below a path; what follows a first unknown part is left out."""
    known = path.partition("*")[0]
    return f"{known}*" if "*" in path or not path.endswith((".json", ".parquet", ".manifest", ".gz")) else path


def widest(patterns: Iterable[str]) -> list[str]:
    """Patterns that are in none of the others."""
    every = sorted(set(patterns))
    return [
        one
        for one in every
        if not any(other != one and other.endswith("*") and one.startswith(other[:-1]) for other in every)
    ]
