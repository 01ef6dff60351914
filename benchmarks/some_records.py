"""Different records of one length; the standard library only, for peers too."""

from __future__ import annotations

import random

__all__ = ["some_records"]


def some_records(length: int, different: int = 256) -> list[bytes]:
    """As many as that, the same each time."""
    generator = random.Random(0)
    return [generator.randbytes(length) for _ in range(different)]
