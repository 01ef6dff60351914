"""Pictures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from millrace.specs import Parameters

__all__ = ["ImageData"]


class ImageData(Parameters):
    """Pictures: JPEG, PNG, WebP, GIF and BMP, all brought to one size."""

    kind: Literal["image"] = "image"
    """What the objects are; the choice of the other fields goes with it."""
    height: int = Field(default=224, ge=1, le=8192)
    """Pixels."""
    width: int = Field(default=224, ge=1, le=8192)
    """Pixels."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for RGB."""
    encoding: Literal["jpeg", "png", "raw"] = "jpeg"
    """Form of the pictures in the records: jpeg is small, png small and exact, raw fastest to read."""
    quality: int = Field(default=95, ge=1, le=100)
    """Of jpeg: 1 is smallest, 100 nearest to the source; colours have half the resolution, as in most JPEG files."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """crop: cover the size, keep the middle; pad: fit into it, add black edges; stretch: change the aspect ratio."""
    max_pixels: int = Field(default=89_478_485, ge=1, le=178_956_970)
    """Pictures with more are rejected by their header, before they are decoded."""
