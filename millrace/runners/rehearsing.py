"""What rehearsals of all targets have in common."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from millrace.errors import ConfigError
from millrace.runners.settings import Rehearse

__all__ = ["Ending", "ending_on_signal", "forget_old", "identity_of", "missing_images", "named", "refuse_settings"]


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


class Ending:
    """What signals do in the course of a rehearsal: the first one ends it, and later ones don't disturb its end."""

    def __init__(self) -> None:
        self._asked = False
        self._begun = False
        self._stop: Callable[[], object] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._asked:
            return
        self._asked = True
        if self._stop:
            self._stop()
        elif not self._begun:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def stopping(self, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> Iterator[None]:
        """Let a signal call `stop` in a loop; afterwards all of them are late, and do nothing."""
        self._begun, self._stop = True, lambda: loop.call_soon_threadsafe(stop)
        try:
            yield
        finally:
            self._stop = None


@contextlib.contextmanager
def ending_on_signal() -> Iterator[Ending]:
    """Let SIGINT, SIGTERM and SIGHUP end a rehearsal in order, until all that it has opened is closed."""
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():  # whoever is there decides
        yield ending
        return
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        numbers.remove(signal.SIGHUP)
    earlier = {number: signal.signal(number, ending.handle) for number in numbers}
    try:
        yield ending
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def forget_old(settings: Rehearse) -> None:
    """Remove the folders of old rehearsals."""
    found = sorted(settings.root.glob("*/rehearsal.json"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in found[settings.keep :]:
        shutil.rmtree(file.parent, ignore_errors=True)
