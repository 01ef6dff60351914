"""One training job in containers, as the service runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from millrace.runners.sagemaker.place import Ended, Place

__all__ = ["run_training"]


def run_training(
    place: Place,
    job_name: str,
    arguments: Mapping[str, Any],
    *,
    watch: Callable[[str, str], None] | None = None,
    stop: threading.Event | None = None,
    interrupt_after: float | None = None,
) -> Ended:
    """Run a training job to its end.

    Args:
        place: Where it runs.
        job_name: Its name, that of no other job of the rehearsal.
        arguments: A CreateTrainingJob request without open expressions.
        watch: Called with a host and a line of its log while it runs, in threads of the hosts.
        stop: Stops the job when it is set, as early stopping does.
        interrupt_after: Seconds after which a spot interruption takes the hosts away, once.

    Raises:
        TaskFailedError: When the rehearsal was stopped, or this machine failed.
        UnsupportedError: When the request has parts that can't be rehearsed.
    """
    raise NotImplementedError
