"""Where compiled documents are written."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from millrace.errors import ConfigError, explain_os_error

__all__ = ["is_printed", "size_of", "write_document"]


def is_printed(path: Path, text: str) -> bool:
    """Print a document where that is asked for, with `-` for a path; whether it was."""
    if str(path) == "-":
        print(text, end="")
        return True
    return False


def size_of(text: str) -> str:
    """Size of a document for people."""
    return f"{len(text.encode()) / 1000:.1f} KB"


def write_document(path: Path, text: str, taken: set[Path]) -> None:
    """Put a document in place, whole or not at all, and over none that this call has written."""
    if path.absolute() in taken:
        raise ConfigError(
            f"output: {path} was written by another job of this sweep: give each a name of its own, "
            "'output=build/${hydra:job.num}.yaml' for one"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise ConfigError(f"output: {explain_os_error(error)}") from error
    taken.add(path.absolute())
