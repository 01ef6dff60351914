"""Models that a training starts from, or learns from."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from millrace.specs import Parameters
from millrace.specs.earlier import check_earlier_location

__all__ = ["REGISTRY", "FineTuning", "Teacher"]

REGISTRY = re.compile(r"arn:aws[\w-]*:sagemaker:(?P<region>[\w-]+):\d{12}:model-package/\S+")
"""ARN of a model package in SageMaker's registry."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Factor = Annotated[float, Field(gt=0, le=1000)]


class FineTuning(Parameters):
    """Start from trained weights: train the head alone first, then more of the network, at a lower rate."""

    model: str | None = Field(default=None, min_length=1, json_schema_extra={"format": "location"})
    """A trained model: the folder of a Model artifact, a `.keras` file or a `model.tar.gz`, as a path, file://, s3://
    or gs://; `run:ID/TASK` of an earlier local run; or the ARN of a SageMaker model package. It brings the network:
    `train.model` is not used, `train.pixels` stays at its default. None takes the input `base`, and without one the
    network of `train.model` with its own pretrained weights."""
    sha256: Digest | None = Field(default=None)
    """What the `.keras` file or the archive must hash to (for a folder, its `model.keras`); required for s3://, gs://
    and the registry."""
    head: Literal["auto", "keep", "new"] = Field(default="auto")
    """The layers that tell the classes apart. keep: as they are; new: drawn anew for the records' classes; auto: kept
    when the classes are the same."""
    frozen_epochs: int = Field(default=0, ge=0)
    """Epochs of the first phase, which trains the head alone; the rest of `epochs` is the second phase."""
    unfreeze: Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)] = Field(default="all")
    """What the second phase trains beside the head. A number: so many of the topmost layers that have weights (batch
    normalisation is not counted); a name: the block or layer of that name and all above it; all: everything."""
    learning_rate: float | None = Field(default=None, gt=0, le=100)
    """Highest learning rate of the second phase; its schedule begins anew. None: a tenth of `train.learning_rate`, or
    all of it when there is no first phase."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Discriminative learning rates: each layer learns at that share of the rate of the one above it; the topmost, the
    head, at the full one (Howard and Ruder 2018 take 0.38)."""
    multipliers: dict[str, Factor] = Field(default_factory=dict)
    """The same by hand: a factor of the learning rate for the layers of each block or layer named here."""
    batch_norm: Literal["inference", "train"] = Field(default="inference")
    """inference: batch normalisation below the head stays as it is, statistics, scale and offset, and normalises as it
    does when answering; train: it learns along with the layers around it."""

    @field_validator("unfreeze", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        return int(value) if isinstance(value, str) and value.isdecimal() else value  # some targets hand over texts

    @model_validator(mode="after")
    def _possible(self) -> FineTuning:
        _check_pinned(self.model, self.sha256)
        if self.multipliers and self.layer_decay != 1:
            raise ValueError("layer_decay and multipliers both set the learning rates of layers: leave one of them out")
        return self

    def second_rate(self, learning_rate: float) -> float:
        """Highest learning rate of the second phase, when that of the first is `learning_rate`."""
        if self.learning_rate is not None:
            return self.learning_rate
        return learning_rate / 10 if self.frozen_epochs else learning_rate


class Teacher(Parameters):
    """Knowledge distillation: learn from a trained model's answers, too (Hinton, Vinyals and Dean 2015)."""

    model: str | None = Field(default=None, min_length=1, json_schema_extra={"format": "location"})
    """The teacher, in the forms of `fine_tuning.model`, with the records' classes and input size. None takes the input
    `teacher`."""
    sha256: Digest | None = Field(default=None)
    """What its file must hash to, as for `fine_tuning.sha256`."""
    temperature: float = Field(default=4.0, gt=0, le=100)
    """What both models' logits are divided by before they are compared: more shows more of how the teacher ranks wrong
    classes."""
    alpha: float = Field(default=0.5, gt=0, le=1)
    """Share of the teacher in the loss, `(1 - alpha) * cross entropy + alpha * temperature**2 * divergence`; 1 learns
    from the teacher alone."""

    @model_validator(mode="after")
    def _pinned(self) -> Teacher:
        _check_pinned(self.model, self.sha256)
        return self


def _check_pinned(model: str | None, sha256: str | None) -> None:
    if model is None:
        if sha256 is not None:
            raise ValueError("sha256 is the digest of `model`, which is not given")
        return
    if model.startswith("arn:") and not REGISTRY.fullmatch(model):
        raise ValueError(
            f"model={model!r} is no model package: arn:aws:sagemaker:REGION:ACCOUNT:model-package/GROUP/VERSION"
        )
    try:
        check_earlier_location(model)
    except ValueError as error:
        raise ValueError(f"model={error}") from None
    if model.startswith(("s3://", "gs://", "arn:")) and sha256 is None:
        raise ValueError(f"model={model!r} needs sha256, the digest that the file must have")
