"""What happens to pixels before they reach a network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["Augmentation", "Pixels"]


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
