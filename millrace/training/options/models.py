"""Networks, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Application", "Backbone", "Cnn", "Custom", "Mlp", "ModelChoice"]

Units = Annotated[int, Field(ge=1, le=65_536)]


Probability = Annotated[float, Field(ge=0, lt=1)]


Backbone = Literal[
    "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtTiny", "ConvNeXtXLarge",
    "DenseNet121", "DenseNet169", "DenseNet201",
    "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3",
    "EfficientNetB4", "EfficientNetB5", "EfficientNetB6", "EfficientNetB7",
    "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3",
    "EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S",
    "InceptionResNetV2", "InceptionV3",
    "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small",
    "NASNetLarge", "NASNetMobile",
    "ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2",
    "VGG16", "VGG19", "Xception",
]  # fmt: skip
"""Architectures of `keras.applications`."""


class Cnn(Parameters):
    """A small convolutional network: for each number of filters two convolutions and a pooling by two."""

    kind: Literal["cnn"] = "cnn"
    filters: tuple[Units, ...] | None = Field(default=None, min_length=1, max_length=8)
    """Filters of each stage; every stage halves height and width. None: 32 and 64 for images of up to 32
    pixels; above, 16, 32, 64, 128, 128, ... until 8 pixels or fewer are left."""
    kernel: int = Field(default=3, ge=1, le=11)
    """Height and width of the convolutions in pixels."""
    units: tuple[Units, ...] = Field(default=(128,), max_length=4)
    """Units of the dense layers before the classes."""
    pooling: Literal["flatten", "average", "max"] = Field(default="flatten")
    """What turns the last stage into a vector; average or max keep large images cheap."""
    batch_norm: bool = Field(default=True)
    """Normalise after each convolution."""
    dropout: Probability = Field(default=0.3)
    """Share of inputs dropped before each dense layer."""


class Mlp(Parameters):
    """A multi-layer perceptron over the flattened pixels."""

    kind: Literal["mlp"] = "mlp"
    units: tuple[Units, ...] = Field(default=(128, 64), min_length=1, max_length=8)
    """Units of each hidden layer."""
    batch_norm: bool = Field(default=False)
    """Normalise after each hidden layer."""
    dropout: Probability = Field(default=0.2)
    """Share of inputs dropped after each hidden layer."""


class Application(Parameters):
    """A backbone of `keras.applications`, its own input preprocessing built in, and a new head."""

    kind: Literal["application"] = "application"
    name: Backbone = Field(default="MobileNetV2")
    """The architecture."""
    weights: str | None = Field(default=None)
    """File or URI (s3://, gs://, file://) of the backbone's weights without its top (`.weights.h5` or `.h5`).
    None starts from random weights; nothing is ever fetched from the internet unasked."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What the weights file must hash to; required for s3:// and gs://."""
    trainable: bool = Field(default=True)
    """False trains the head only."""
    pooling: Literal["average", "max"] = Field(default="average")
    """Global pooling of the last feature map."""
    dropout: Probability = Field(default=0.2)
    """Share of features dropped before the classes."""

    @model_validator(mode="after")
    def _pinned(self) -> Application:
        remote = self.weights is not None and self.weights.startswith(("s3://", "gs://"))
        if remote and self.sha256 is None:
            raise ValueError(f"weights from {self.weights!r} need sha256, the digest that the file must have")
        if self.weights is None and not self.trainable:
            raise ValueError("trainable=false freezes random weights: give weights as well")
        return self


class Custom(Parameters):
    """A model of the user's own."""

    kind: Literal["custom"] = "custom"
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function`, called with `(input_shape, classes)`; returns a functional or sequential
    keras.Model from scaled pixels (see `pixels`) to class probabilities."""


ModelChoice = Annotated[Cnn | Mlp | Application | Custom, Field(discriminator="kind")]
