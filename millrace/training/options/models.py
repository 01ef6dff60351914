"""Networks, by kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Application", "Backbone", "Bert", "Cnn", "Custom", "Mlp", "ModelChoice"]

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
    """A multi-layer perceptron over the flattened pixels, or the features of rows."""

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
    weights: str | None = Field(default=None, json_schema_extra={"format": "location"})
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
        _check_weights(self.weights, self.sha256, trainable=self.trainable)
        return self


class Bert(Parameters):
    """A text classifier on the encoder of BERT (Devlin et al. 2018), as keras-hub's `BertBackbone` has it; for text
    records. The defaults are those of BERT-Tiny (Turc et al. 2019)."""

    kind: Literal["bert"] = "bert"
    """Always bert, which `model` of `train` chooses it by."""
    layers: int = Field(default=2, ge=1, le=96)
    """Transformer layers."""
    heads: int = Field(default=2, ge=1, le=256)
    """Attention heads of each layer; must divide `hidden`."""
    hidden: int = Field(default=128, ge=1, le=16_384)
    """Length of a token's vector."""
    intermediate: int = Field(default=512, ge=1, le=65_536)
    """Units between the two dense layers of each transformer layer."""
    positions: int = Field(default=512, ge=3, le=65_536)
    """Longest text in tokens that there are position embeddings for."""
    dropout: Probability = Field(default=0.1)
    """Share dropped of embeddings, attention, the outputs of each layer, and before the classes."""
    pooling: Literal["cls", "average"] = Field(default="cls")
    """What turns the tokens into one vector: the first one, `[CLS]`, through BERT's pooler, which pretrained weights
    were trained with; or the average of all, which learns sooner from random weights."""
    weights: str | None = Field(default=None, json_schema_extra={"format": "location"})
    """File or URI (s3://, gs://, file://) of a `BertBackbone`'s weights (`.weights.h5`), or a folder that keras-hub's
    `save_to_preset` wrote. None starts from random weights; nothing is ever fetched from the internet unasked."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What the weights file must hash to (of a folder, `model.weights.h5`); required for s3:// and gs://."""
    trainable: bool = Field(default=True)
    """False trains the classes on top only."""

    @model_validator(mode="after")
    def _possible(self) -> Bert:
        _check_weights(self.weights, self.sha256, trainable=self.trainable)
        if self.hidden % self.heads:
            raise ValueError(f"heads={self.heads} must divide hidden={self.hidden}")
        return self


class Custom(Parameters):
    """A model of the user's own."""

    kind: Literal["custom"] = "custom"
    function: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:function`, called with `(input_shape, classes)`; returns a functional or sequential
    keras.Model from scaled pixels (see `pixels`), or features of rows, to class probabilities."""


ModelChoice = Annotated[Cnn | Mlp | Application | Bert | Custom, Field(discriminator="kind")]


def _check_weights(weights: str | None, sha256: str | None, *, trainable: bool) -> None:
    if weights is not None and weights.startswith(("s3://", "gs://")) and sha256 is None:
        raise ValueError(f"weights from {weights!r} need sha256, the digest that the file must have")
    if weights is None and not trainable:
        raise ValueError("trainable=false freezes random weights: give weights as well")
