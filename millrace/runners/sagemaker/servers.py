"""Containers that serve a model, as the service's hosting and transform jobs run them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from millrace.runners.sagemaker.place import Place

__all__ = ["Server", "open_server"]


@dataclass(frozen=True)
class Server:
    """Containers of one model that answer."""

    urls: tuple[str, ...]
    """One for each instance, without a path."""
    logs: tuple[Path, ...]

    @property
    def url(self) -> str:
        """The first instance."""
        return self.urls[0]


@contextlib.contextmanager
def open_server(
    place: Place,
    name: str,
    container: Mapping[str, Any],
    instances: int = 1,
    *,
    isolated: bool = False,
    timeout: float = 240,
) -> Iterator[Server]:
    """A model's containers as long as this context lives: they answer /ping before it begins.

    Args:
        place: Where they run.
        name: What they are called: a folder of logs, no other server's.
        container: A ContainerDefinition without open expressions.
        instances: How many there are.
        isolated: EnableNetworkIsolation of the model.
        timeout: Seconds until /ping must answer.

    Raises:
        TaskFailedError: When one ends or does not answer; with the last lines of its log.
        UnsupportedError: When the definition has parts that can't be rehearsed.
    """
    raise NotImplementedError
    yield
