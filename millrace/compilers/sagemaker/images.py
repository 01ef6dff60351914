"""Which images SageMaker pulls: those in a private registry of ECR, in the region where they run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["EcrImage", "ecr_image", "elsewhere", "outside_ecr", "push_command"]

_ECR = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr(?:-fips)?\.(?P<region>[a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/"
    r"(?P<name>[^:@]+)(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class EcrImage(NamedTuple):
    """An image in a private registry of ECR."""

    account: str
    region: str
    name: str
    """Of its repository."""
    tag: str | None
    digest: str | None


def ecr_image(reference: str) -> EcrImage | None:
    """What a reference to an image in ECR says; None for any other.

    The public gallery, public.ecr.aws, is another: it is in no account and no region, and jobs do not pull from it.
    """
    found = _ECR.fullmatch(reference)
    return EcrImage(**found.groupdict()) if found else None


def outside_ecr(references: Iterable[str]) -> list[str]:
    """The images among them that are not in ECR."""
    return sorted(reference for reference in references if ecr_image(reference) is None)


def elsewhere(references: Iterable[str], region: str) -> list[str]:
    """The images among them that are in ECR, but in another region."""
    found = ((reference, ecr_image(reference)) for reference in references)
    return sorted(reference for reference, image in found if image is not None and image.region != region)


def push_command(region: str) -> str:
    """What brings this project's images to where jobs of a region find them."""
    domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"millrace build push=ACCOUNT.dkr.ecr.{region}.{domain}/millrace/"
