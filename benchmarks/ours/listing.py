"""Lists a source, as the manifest component does."""

from __future__ import annotations

from typing import Any

from benchmarks.measure import Work, main
from millrace.runtime.storage import list_batches


def prepare(given: dict[str, Any]) -> Work:
    """Given `source`; the endpoint is in the environment."""
    return lambda: sum(batch.height for batch in list_batches(given["source"]))


if __name__ == "__main__":
    main(prepare)
