"""With how many ranks to go on when some are lost."""

from __future__ import annotations

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Elastic"]


class Elastic(Parameters):
    """Go on after the loss of ranks or hosts, from the last checkpoint, with what is left."""

    min_workers: int = Field(default=1, ge=1)
    """With fewer ranks the run fails."""
    max_workers: int | None = Field(default=None, ge=1)
    """No more ranks than that train at a time; None takes all."""
    restarts: int = Field(default=10, ge=1, le=1000)
    """How often ranks are started anew after a loss before the run fails."""
    wait_seconds: float = Field(default=30.0, ge=0, le=86_400)
    """How long hosts that are missing are waited for at the start, while there are enough without them; and how long
    ranks train at least before a host that has come (back) is taken in."""

    @model_validator(mode="after")
    def _ordered(self) -> Elastic:
        if self.max_workers is not None and self.max_workers < self.min_workers:
            raise ValueError(f"max_workers={self.max_workers} is below min_workers={self.min_workers}")
        return self
