"""What the stand-ins for S3 have in common: each is a process on one core, that prints where it listens."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from millrace.errors import TaskFailedError

__all__ = ["standing_in"]

_VARIABLES = {
    "AWS_ACCESS_KEY_ID": "benchmark",
    "AWS_SECRET_ACCESS_KEY": "benchmark",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@contextmanager
def standing_in(module: str, *arguments: str, core: int) -> Iterator[dict[str, str]]:
    """Run a server until the block is left; gives the environment in which clients find it.

    Args:
        module: Of the server; its first line is its URL.
        *arguments: For it.
        core: The processor core that it runs on.

    Raises:
        TaskFailedError: When it ends before it listens.
    """
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            os.sched_setaffinity(process.pid, {core})
            url = process.stdout.readline().strip() if process.stdout else ""
            if not url:
                raise TaskFailedError(f"{module} ended with {process.wait()}")
            yield {**_VARIABLES, "AWS_ENDPOINT_URL": url}
        finally:
            process.kill()
