"""What one serving container accepts: fields of the deploy component's parameters, options of the server."""

from __future__ import annotations

from pydantic import Field, model_validator

from millrace.specs import Frozen

__all__ = ["NAME", "NAME_VARIABLE", "REVISION_VARIABLE", "Limits", "limit_variable"]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
"""What a model may be called: it is part of URLs."""

NAME_VARIABLE = "MILLRACE_MODEL_NAME"
"""Environment variable of a serving container: the model's name."""

REVISION_VARIABLE = "MILLRACE_REVISION"
"""Environment variable of a serving container: which of an endpoint's revisions it is, said in the model's metadata."""


def limit_variable(field: str) -> str:
    """The environment variable of a serving container for one of the limits."""
    return f"MILLRACE_{field.upper()}"


class Limits(Frozen):
    """Limits of an endpoint."""

    max_batch_size: int = Field(default=32, ge=1, le=4096)
    """Images, texts or rows that the model is given at once; requests that wait are answered together."""
    max_delay_ms: float = Field(default=2, ge=0, le=1000)
    """How long the first request of a batch waits for others, in milliseconds."""
    max_queue: int = Field(default=1024, ge=1)
    """Images, texts or rows that may wait for the model; more are refused with 503 and Retry-After."""
    max_instances: int = Field(default=256, ge=1)
    """Images, texts or rows in one request."""
    max_body_mib: float = Field(default=8, gt=0, le=1024)
    """Size of one request's body in MiB."""
    max_megapixels: float = Field(default=32, gt=0, le=1000)
    """Size of one encoded image in million pixels, checked before it is decoded."""
    timeout_seconds: float = Field(default=30, gt=0)
    """A request that is not answered by then gets 504."""

    @model_validator(mode="after")
    def _whole_requests_fit(self) -> Limits:
        if self.max_queue < self.max_instances:
            raise ValueError(
                f"max_queue is {self.max_queue}, less than max_instances ({self.max_instances}): "
                "a full request could never be answered"
            )
        return self

    @property
    def max_body(self) -> int:
        """Size of one request's body in bytes."""
        return int(self.max_body_mib * 2**20)

    @property
    def max_pixels(self) -> int:
        """Size of one encoded image in pixels."""
        return int(self.max_megapixels * 1_000_000)
