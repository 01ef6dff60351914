"""`millrace build`: the images of the components, on this machine and in a registry."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from millrace.config import compose_and_call
from millrace.errors import ConfigError, did_you_mean
from millrace.runners.revision import origin, revision
from millrace.services import images
from millrace.settings import Settings, read_settings
from millrace.targets.images import Images
from millrace.targets.sagemaker import SageMaker

__all__ = ["run"]


def run(words: Sequence[str]) -> int:
    """Build the images that the words choose (all, or `images=[train]`), push them with `push=PREFIX`."""
    return compose_and_call("build", words, _build)


def _build(composed: Mapping[str, Any]) -> int:
    settings = read_settings(composed)
    names = list(dict.fromkeys(settings.images)) or images.IMAGES
    for name in names:
        if name not in images.IMAGES:
            raise ConfigError(f"images: unknown image {name!r}: {did_you_mean(name, images.IMAGES)}")
        if settings.push:
            images.pushed_name(settings.push, name)
    source = images.checkout()
    docker = images.find_docker()
    built = images.build(docker, source, names, revision(source), origin(source))
    digests_file = (settings.target.images if settings.target else Images()).digests
    pushed: dict[str, str] = {}
    if settings.push:
        pushed = images.push(docker, built, settings.push, root=_for_sagemaker(settings))
        images.write_digests(digests_file, pushed)
    for line in _table(built, pushed):
        print(line)
    if settings.push:
        print(f"wrote {digests_file}: compiled documents name these images by digest")
    elif digests_file.exists():
        print(
            f"note: {digests_file} names images that were pushed before, and compiled documents use those: "
            f"push these with push=..., or remove the file",
            file=sys.stderr,
        )
    return 0


def _for_sagemaker(settings: Settings) -> bool:
    """Whether images are pushed for SageMaker: the target says so, or with none the registry, from which it pulls."""
    from millrace.compilers.sagemaker.images import ecr_image

    if settings.target is not None:
        return isinstance(settings.target, SageMaker)
    return ecr_image(f"{(settings.push or '').rstrip('/')}/image") is not None


def _table(built: Sequence[images.Built], pushed: Mapping[str, str]) -> list[str]:
    rows = [("image", "size"), *((image.reference, f"{image.size / 1e6:,.0f} MB") for image in built)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    ends = ["pushed as" if pushed else "", *(pushed.get(image.name, "") for image in built)]
    return [
        f"{first:{widths[0]}}  {second:>{widths[1]}}  {end}".rstrip()
        for (first, second), end in zip(rows, ends, strict=True)
    ]
