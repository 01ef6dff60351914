"""The choices that training offers, as typed data: models, augmentation, optimizers, schedules."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = [
    "Adagrad",
    "Adam",
    "AdamW",
    "Application",
    "Augmentation",
    "Backbone",
    "Cnn",
    "Constant",
    "Cosine",
    "Custom",
    "EarlyStopping",
    "Exponential",
    "Lion",
    "Mlp",
    "ModelChoice",
    "Nadam",
    "Optimizer",
    "Piecewise",
    "Pixels",
    "ReduceOnPlateau",
    "RmsProp",
    "Schedule",
    "Sgd",
]

Units = Annotated[int, Field(ge=1, le=65_536)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Monitor = Literal["validation_loss", "validation_accuracy", "loss", "accuracy"]

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


class Pixels(Parameters):
    """How 8-bit pixels become the network's numbers; layers of the saved model, so serving does the same."""

    rescale: float = Field(default=1 / 255, gt=0)
    """Factor for the pixel values of 0 to 255. `keras.applications` bring their own scaling and ignore it."""
    normalise: Literal["none", "samplewise", "featurewise"] = Field(default="none")
    """samplewise: each image to mean 0 and deviation 1; featurewise: each colour channel, by the mean
    and deviation of the training images."""


class Augmentation(Parameters):
    """Random changes of training images; each image of each epoch gets its own. The default changes nothing."""

    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    """Largest rotation either way, in degrees."""
    width_shift: float = Field(default=0.0, ge=0, le=1)
    """Largest shift sideways, as a share of the width."""
    height_shift: float = Field(default=0.0, ge=0, le=1)
    """Largest shift up or down, as a share of the height."""
    shear_degrees: float = Field(default=0.0, ge=0, lt=90)
    """Largest shear angle, in degrees."""
    zoom: tuple[float, float] = Field(default=(1.0, 1.0))
    """Smallest and largest magnification; (0.8, 1.2) shrinks or enlarges by up to a fifth."""
    horizontal_flip: bool = Field(default=False)
    """Mirror left and right, half of the time."""
    vertical_flip: bool = Field(default=False)
    """Mirror top and bottom, half of the time."""
    fill_mode: Literal["nearest", "constant", "reflect", "wrap"] = Field(default="nearest")
    """What is seen beyond the border."""
    fill_value: float = Field(default=0.0, ge=0, le=255)
    """Pixel value for `fill_mode=constant`."""
    interpolation: Literal["bilinear", "nearest"] = Field(default="bilinear")
    """How pixels between pixels are read."""
    brightness: tuple[float, float] = Field(default=(1.0, 1.0))
    """Smallest and largest factor of all pixel values."""
    contrast: tuple[float, float] = Field(default=(1.0, 1.0))
    """Smallest and largest factor of the distance from the image's mean."""
    channel_shift: float = Field(default=0.0, ge=0, le=255)
    """Largest number added to or taken from each colour channel, on the 0 to 255 scale."""

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        for name, (low, high) in (("zoom", self.zoom), ("brightness", self.brightness), ("contrast", self.contrast)):
            if low > high or low < 0 or (name == "zoom" and low == 0):
                raise ValueError(
                    f"{name} must be (smallest, largest) with 0 < smallest <= largest, given ({low}, {high})"
                )
        return self

    @property
    def geometric(self) -> bool:
        """Whether pixels are moved."""
        moved = (self.rotation_degrees, self.width_shift, self.height_shift, self.shear_degrees)
        return any(moved) or self.zoom != (1.0, 1.0) or self.horizontal_flip or self.vertical_flip

    @property
    def photometric(self) -> bool:
        """Whether pixel values are changed."""
        return self.brightness != (1.0, 1.0) or self.contrast != (1.0, 1.0) or self.channel_shift > 0


class Sgd(Parameters):
    """Stochastic gradient descent."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step that is taken again."""
    nesterov: bool = Field(default=False)
    """Look ahead along the momentum."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of each weight taken away a step, times the learning rate."""


class Adam(Parameters):
    """Adam."""

    kind: Literal["adam"] = "adam"
    beta_1: Probability = Field(default=0.9)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""
    amsgrad: bool = Field(default=False)
    """Never let the mean of squared gradients shrink."""


class AdamW(Parameters):
    """Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    beta_1: Probability = Field(default=0.9)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""
    weight_decay: float = Field(default=4e-3, ge=0)
    """Share of each weight taken away a step, times the learning rate."""


class Nadam(Parameters):
    """Adam with Nesterov momentum."""

    kind: Literal["nadam"] = "nadam"
    beta_1: Probability = Field(default=0.9)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.999)
    """Decay of the mean of squared gradients."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""


class RmsProp(Parameters):
    """RMSprop."""

    kind: Literal["rmsprop"] = "rmsprop"
    rho: Probability = Field(default=0.9)
    """Decay of the mean of squared gradients."""
    momentum: Probability = Field(default=0.0)
    """Share of the last step that is taken again."""
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""
    centered: bool = Field(default=False)
    """Divide by the deviation of gradients instead of their size."""


class Adagrad(Parameters):
    """Adagrad."""

    kind: Literal["adagrad"] = "adagrad"
    epsilon: float = Field(default=1e-7, gt=0)
    """Keeps divisions away from zero."""


class Lion(Parameters):
    """Lion; wants a learning rate 3 to 10 times smaller than Adam's."""

    kind: Literal["lion"] = "lion"
    beta_1: float = Field(default=0.9, gt=0, le=1)
    """Decay of the mean of gradients."""
    beta_2: Probability = Field(default=0.99)
    """Decay of the mean of squared gradients."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Share of each weight taken away a step, times the learning rate."""


Optimizer = Annotated[Sgd | Adam | AdamW | Nadam | RmsProp | Adagrad | Lion, Field(discriminator="kind")]


class Constant(Parameters):
    """The same learning rate throughout."""

    kind: Literal["constant"] = "constant"


class Cosine(Parameters):
    """A linear rise, then half a cosine down, over all epochs."""

    kind: Literal["cosine"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs of the rise from zero; parts of an epoch are allowed."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """Last learning rate, as a share of the highest."""


class Exponential(Parameters):
    """Multiplied by a rate at a steady pace."""

    kind: Literal["exponential"] = "exponential"
    rate: float = Field(default=0.9, gt=0, le=1)
    """Factor a period."""
    epochs: float = Field(default=1.0, gt=0)
    """Length of a period in epochs."""
    staircase: bool = Field(default=False)
    """Change at the end of each period only."""


class Piecewise(Parameters):
    """A factor for each stretch of epochs."""

    kind: Literal["piecewise"] = "piecewise"
    epochs: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(10, 15), min_length=1)
    """After how many epochs the next factor holds, rising."""
    factors: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.01), min_length=1)
    """Share of `learning_rate` from then on, one for each of `epochs`."""

    @model_validator(mode="after")
    def _paired(self) -> Piecewise:
        if len(self.epochs) != len(self.factors) or sorted(set(self.epochs)) != list(self.epochs):
            raise ValueError(f"epochs must rise, with one factor each: {self.epochs} and {self.factors}")
        return self


class ReduceOnPlateau(Parameters):
    """Multiplied by a factor when the monitored number stops getting better."""

    kind: Literal["reduce_on_plateau"] = "reduce_on_plateau"
    monitor: Monitor = Field(default="validation_loss")
    """The number to watch."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """What the learning rate is multiplied by."""
    patience: int = Field(default=3, ge=1)
    """Epochs without improvement before the learning rate is reduced."""
    min_delta: float = Field(default=1e-4, ge=0)
    """A change smaller than this is no improvement."""
    minimum: float = Field(default=1e-6, ge=0)
    """The learning rate never goes below this."""


Schedule = Annotated[Constant | Cosine | Exponential | Piecewise | ReduceOnPlateau, Field(discriminator="kind")]


class EarlyStopping(Parameters):
    """End before the last epoch when the monitored number stops getting better."""

    monitor: Monitor = Field(default="validation_loss")
    """The number to watch."""
    patience: int = Field(default=10, ge=1)
    """Epochs without improvement before training ends."""
    min_delta: float = Field(default=0.0, ge=0)
    """A change smaller than this is no improvement."""
    restore_best: bool = Field(default=True)
    """Save the weights of the best epoch instead of the last."""
