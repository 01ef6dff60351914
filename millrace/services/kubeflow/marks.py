"""Marks in the description of runs and schedules: the API has no labels, but it can be searched for these."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

from pydantic import JsonValue

__all__ = ["digest", "mark", "read_mark"]


def digest(**content: JsonValue) -> str:
    """A short name for what a run or a schedule consists of."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def mark(kind: str, name: str, content: str) -> str:
    """The mark of a run or a schedule: `[millrace run=ID content=DIGEST]`."""
    return f"[millrace {kind}={name} content={content}]"


def read_mark(kind: str, item: Mapping[str, object]) -> tuple[str, str] | None:
    """Name and digest in an item's mark; None when it has no mark of ours."""
    found = re.search(rf"\[millrace {kind}=(\S+) content=(\w+)\]", str(item.get("description") or ""))
    return (found[1], found[2]) if found else None
