"""How a picture is brought to a size: which part of it is taken, and how large that part becomes."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Fit", "Resize", "fit"]

Resize = Literal["crop", "pad", "stretch"]


class Fit(NamedTuple):
    """What becomes of a picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom of the part that is kept."""
    inner: tuple[int, int]
    """Width and height of that part in the result; smaller than it for `pad`."""
    scale: tuple[float, float]
    """Factors, across and down."""


def fit(given: tuple[int, int], wanted: tuple[int, int], resize: Resize) -> Fit:
    """Bring a picture to a size.

    Args:
        given: Its width and height.
        wanted: Those of the result.
        resize: `crop` covers the result and keeps the middle, `pad` fits into it, `stretch` changes the aspect ratio.
    """
    width, height = given
    across, down = wanted[0] / width, wanted[1] / height
    if resize != "stretch":
        across = down = max(across, down) if resize == "crop" else min(across, down)
    if resize == "pad":
        inner = (max(1, round(width * across)), max(1, round(height * down)))
        return Fit((0, 0, width, height), inner, (across, down))
    kept = (wanted[0] / across, wanted[1] / down)
    left, top = (width - kept[0]) / 2, (height - kept[1]) / 2
    box = (max(0.0, left), max(0.0, top), min(left + kept[0], width), min(top + kept[1], height))
    return Fit(box, wanted, (across, down))
