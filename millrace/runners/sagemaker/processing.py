"""One processing job in containers, as the service runs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from millrace.runners.sagemaker.place import Ended, Place

__all__ = ["run_processing"]


def run_processing(
    place: Place,
    job_name: str,
    arguments: Mapping[str, Any],
    *,
    watch: Callable[[str, str], None] | None = None,
    stop: threading.Event | None = None,
) -> Ended:
    """Run a processing job to its end.

    Args:
        place: Where it runs.
        job_name: Its name, that of no other job of the rehearsal.
        arguments: A CreateProcessingJob request without open expressions.
        watch: Called with a host and a line of its log while it runs, in threads of the hosts.
        stop: Stops the job when it is set.

    Raises:
        TaskFailedError: When the rehearsal was stopped, or this machine failed.
        UnsupportedError: When the request has parts that can't be rehearsed.
    """
    raise NotImplementedError
