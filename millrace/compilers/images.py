"""Which image a component runs in: a full reference whose content can't change behind a document's back."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from millrace import __version__
from millrace.errors import ConfigError
from millrace.targets.images import Images

__all__ = ["read_digests", "reference"]

_SHORT = re.compile(r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*")
_REFERENCE = re.compile(
    rf"(?P<name>(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_SHORT.pattern}(?:/{_SHORT.pattern})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_digests: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def reference(image: str, images: Images) -> str:
    """The full reference of a component's image.

    Args:
        image: `ComponentSpec.image`: the name of an image under containers/, or a full reference
            (recognised by a `/`, `:` or `@`), which is given back as it is.
        images: Where images are found. A digest in the file `images.digests` wins over prefix and tag.

    Raises:
        ConfigError: For a reference that is malformed or may mean another image tomorrow: one with the
            tag `latest`, or with neither tag nor digest.
    """
    if any(sign in image for sign in "/:@"):
        return _fixed(image, f"image {image!r}")
    if not _SHORT.fullmatch(image):
        raise ConfigError(
            f"image {image!r}: not an image's name: give a folder's name under containers/ (lowercase letters, digits, "
            f"and `-`, `_` or `.` between them) or a full reference such as registry.example.org/team/{_example(image)}"
        )
    digests = read_digests(images.digests)
    if image in digests:
        found = digests[image]
        if "@" not in found:
            raise ConfigError(f"{images.digests}: {image}: a reference by digest is needed (given: {found!r})")
        return _fixed(found, f"{images.digests}: {image}")
    tag = __version__ if images.tag is None else images.tag
    given = f"{images.prefix}{image}:{tag}"
    return _fixed(given, f"image {given!r} (of target.images.prefix and target.images.tag)")


def read_digests(path: Path) -> dict[str, str]:
    """What `millrace build push=...` wrote: references by digest, by image name; empty when there is no such file.

    Raises:
        ConfigError: For a file that holds something else.
    """
    try:
        return _digests.validate_json(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else 'it must hold {"IMAGE": "REFERENCE@sha256:..."}'
        raise ConfigError(f"{path}: can't be read: {reason}; `millrace build push=...` writes it again") from error


def _fixed(given: str, what: str) -> str:
    match = _REFERENCE.fullmatch(given)
    if match is None:
        raise ConfigError(
            f"{what}: not an image reference: give REGISTRY/NAME:TAG or REGISTRY/NAME@sha256:DIGEST (64 hex digits), "
            "with the name in lowercase"
        )
    if match["digest"]:
        return given
    if match["tag"] == "latest":
        raise ConfigError(
            f"{what}: the tag `latest` means another image tomorrow: name a version, {match['name']}:{__version__} "
            f"for one, or a digest, {match['name']}@sha256:..."
        )
    if not match["tag"]:
        raise ConfigError(
            f"{what}: has no tag, which means `latest`, another image tomorrow: name a version, "
            f"{match['name']}:{__version__} for one, or a digest, {match['name']}@sha256:..."
        )
    return given


def _example(image: str) -> str:
    return f"{re.sub('[^a-z0-9]+', '-', image.lower()).strip('-') or 'name'}:{__version__}"
