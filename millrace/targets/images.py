"""Where the images of components are found."""

from __future__ import annotations

from pathlib import Path

from millrace.specs import Frozen

__all__ = ["Images"]


class Images(Frozen):
    """Where the images of components are found."""

    prefix: str = "millrace/"
    """Put before a component's image name: `millrace/` gives `millrace/train:TAG`."""
    tag: str | None = None
    """Tag of the images; null takes Millrace's own version. `latest` is refused."""
    digests: Path = Path("build/images.json")
    """What `millrace build push=...` wrote: references by digest, which win over prefix and tag."""
