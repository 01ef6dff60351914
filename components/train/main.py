"""Train a model on record files."""

from __future__ import annotations

from millrace.runtime.context import Context, Result
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.start import start

__all__ = ["main"]


def main(parameters: TrainParameters, inputs: TrainInputs, outputs: TrainOutputs, context: Context) -> Result:
    """Train, save the model and report its figures."""
    return start(parameters, inputs, outputs, context)
