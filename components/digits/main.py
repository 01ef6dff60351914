"""Write the pictures."""

from __future__ import annotations

from collections import Counter

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from millrace.components.digits.spec import DigitsInputs, DigitsOutputs, DigitsParameters
from millrace.runtime.context import Context, Result

__all__ = ["main"]

_DARKEST = 16  # the source counts set pixels in 4 x 4 blocks


def main(parameters: DigitsParameters, inputs: DigitsInputs, outputs: DigitsOutputs, context: Context) -> Result:
    """Write `CLASS/digit-NNNN.png`, NNNN being the position in scikit-learn's data."""
    values, labels = load_digits(return_X_y=True)
    pixels = np.rint(values.reshape(-1, 8, 8) * (255 / _DARKEST)).astype(np.uint8)
    written: Counter[str] = Counter()
    for index, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        name = str(label)
        if parameters.limit is not None and written[name] >= parameters.limit:
            continue
        folder = outputs.dataset.path / name
        folder.mkdir(exist_ok=True)
        enlarged = picture.repeat(parameters.scale, axis=0).repeat(parameters.scale, axis=1)
        Image.fromarray(enlarged).save(folder / f"digit-{index:04d}.png")
        written[name] += 1
        context.progress(index + 1, len(pixels), "images")
    context.log.info("%d pictures of %d digits", written.total(), len(written))
    return Result(metadata={"dataset": {"objects": written.total()}})
