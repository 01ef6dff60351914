"""How one model is spread over several ranks."""

from __future__ import annotations

from pydantic import Field

from millrace.specs import Parameters

__all__ = ["Parallel"]


class Parallel(Parameters):
    """Large Dense and Embedding layers in parts, each held by another rank. The default splits nothing."""

    tensor: int = Field(default=1, ge=1, le=1024)
    """Ranks that hold one model together; it must divide the number of ranks, and the groups so made share the data.
    Needs Horovod."""
    min_units: int = Field(default=4096, ge=2)
    """Split are Dense layers with at least that many outputs or inputs, and embeddings with at least that many rows."""
    layers: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Names of the Dense and Embedding layers to split, whatever their size; None goes by `min_units`."""
