"""What rehearsals of all targets have in common."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from millrace.errors import ConfigError
from millrace.runners.settings import Rehearse

__all__ = ["ending_on_signal", "forget_old", "identity_of", "missing_images", "named", "refuse_settings"]


def identity_of(pipeline: str) -> str:
    """A name for a rehearsal that no other has."""
    return f"{re.sub(r'[^a-z0-9]+', '-', pipeline.lower()).strip('-')[:40]}-{uuid.uuid4().hex[:8]}"


def named(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """Values by the document's names; dotted names of open fields (`train.epochs`) are `train_epochs` there."""
    names = set(known)
    found: dict[str, Any] = {}

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping) and name not in names and value:
            for key, inner in value.items():
                add(f"{name}_{key}", inner)
        else:
            found[name if name in names else name.replace(".", "_")] = value

    for name, value in given.items():
        add(name, value)
    return found


def missing_images(missing: Iterable[str]) -> str:
    """What to do about images that are not on this machine."""
    lines = []
    for image in missing:
        own = image.split("@")[0].rpartition("/")[2].partition(":")[0]
        mend = f"millrace build images=[{own}]" if image.startswith("millrace/") else f"docker pull {image}"
        lines.append(f"the image {image} is not on this machine: {mend}")
    return "\n".join(lines)


def refuse_settings(settings: Rehearse, names: Iterable[str], target: str) -> None:
    """Refuse settings that the other target's rehearsals have.

    Raises:
        ConfigError: When one of them is given.
    """
    for name in names:
        default = Rehearse.model_fields[name].get_default(call_default_factory=True)
        if getattr(settings, name) != default:
            raise ConfigError(f"rehearse.{name}: not a setting of a rehearsal for {target}; leave it out")


@contextlib.contextmanager
def ending_on_signal(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end a rehearsal in order."""
    added = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(RuntimeError, ValueError):  # not the main thread: whoever is, decides
            loop.add_signal_handler(number, stop)
            added.append(number)
    try:
        yield
    finally:
        for number in added:
            loop.remove_signal_handler(number)


def forget_old(settings: Rehearse) -> None:
    """Remove the folders of old rehearsals."""
    found = sorted(settings.root.glob("*/rehearsal.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in found[settings.keep :]:
        shutil.rmtree(file.parent, ignore_errors=True)
