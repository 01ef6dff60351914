"""What training looks at beside the loss."""

from __future__ import annotations

from pydantic import Field

from millrace.specs import Parameters

__all__ = ["Debug"]


class Debug(Parameters):
    """Gradients and activations of each layer now and then: plots in the report, warnings in the log.

    The rules and most limits are those of Amazon SageMaker Debugger's built-in rules of the same names.
    """

    every_steps: int = Field(default=100, ge=1)
    """Steps between two looks; one costs about two steps, always on the run's first batch."""
    vanishing: float = Field(default=1e-7, ge=0)
    """Vanishing gradient: the mean size of a layer's is below this, and below a thousandth of the largest layer's."""
    exploding: float = Field(default=1e4, gt=0)
    """Exploding gradient: the norm of a layer's gradient is above this, or is no number."""
    dead_share: float = Field(default=0.5, gt=0, le=1)
    """Dead ReLU: more than this share of a layer's units are zero for the whole batch."""
    imbalance: float = Field(default=10.0, ge=1)
    """Class imbalance: the largest class has more than this many times the records of the smallest, and
    `class_weights` is none."""
    stalled_epochs: int = Field(default=3, ge=1)
    """Loss not decreasing: over this many epochs it fell by less than `stalled_percent`."""
    stalled_percent: float = Field(default=0.1, ge=0, lt=100)
    """See `stalled_epochs`."""
    overfit_ratio: float = Field(default=0.5, gt=0)
    """Overfit: validation loss is above training loss by more than this share of it, for `stalled_epochs` epochs."""
