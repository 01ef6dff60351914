"""How parameters name what an earlier run made."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["RUN", "Earlier", "check_earlier_location"]

RUN = re.compile(r"run:(?P<id>[^/\s]+)/(?P<task>[^/\s]+)")
"""An earlier run of the local runner (its id, a beginning that no other has, or `latest`) and a task of it."""


def check_earlier_location(value: str) -> str:
    """The value, when it is a path, file://, s3://, gs:// or `run:ID/TASK`.

    Raises:
        ValueError: When it is not.
    """
    scheme, separator, _ = value.partition("://")
    if separator and scheme not in ("file", "s3", "gs"):
        raise ValueError(
            f"{value!r}: scheme {scheme!r} is unknown; allowed: a path, file://, s3://, gs://, run:ID/TASK"
        )
    if value.startswith("run:") and not RUN.fullmatch(value):
        raise ValueError(f"{value!r} is no run: run:ID/TASK, as `ls .millrace/runs` shows the ids, or run:latest/TASK")
    return value


Earlier = Annotated[
    str, Field(min_length=1, json_schema_extra={"format": "location"}), AfterValidator(check_earlier_location)
]
"""Where an artifact of an earlier run is: a folder, s3:// or gs://, or `run:ID/TASK` of an earlier local run."""
