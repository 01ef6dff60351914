"""Marks in descriptions: what a pipeline, an execution or a schedule was made from."""

from __future__ import annotations

import hashlib
import json
import re

from pydantic import JsonValue

__all__ = ["digest", "mark", "read_mark", "token"]


def digest(**content: JsonValue) -> str:
    """A short name for what something consists of."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def mark(kind: str, name: str, content: str) -> str:
    """The mark of a thing: `[millrace run=ID content=DIGEST]`."""
    return f"[millrace {kind}={name} content={content}]"


def read_mark(kind: str, description: object) -> tuple[str, str] | None:
    """Name and digest in a description; None when it has no mark of ours."""
    found = re.search(rf"\[millrace {kind}=(\S+) content=(\w+)\]", str(description or ""))
    return (found[1], found[2]) if found else None


def token(*parts: str) -> str:
    """A token that is the same for the same request: the service does what it stands for once."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
