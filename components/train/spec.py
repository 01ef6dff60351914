"""The `train` component: what it takes and gives."""

from __future__ import annotations

from millrace.specs import Resources, component
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters

__all__ = ["TrainInputs", "TrainOutputs", "TrainParameters", "train"]

train = component(
    name="train",
    version="1",
    description="Train a classifier of pictures, texts or rows of tables with Keras, resumable to the bit.",
    parameters=TrainParameters,
    inputs=TrainInputs,
    outputs=TrainOutputs,
    main="millrace.components.train.main:main",
    image="train",
    delegates=("training",),
    refuses="millrace.training.refusals:refuse",
    uncached_when=("model.weights", "fine_tuning.model", "teacher.model"),
    module=__name__,
    resources=Resources(cpus=2, memory_gib=4),
)
