"""What a classifier answers, in the one form that every place gives it in: over HTTP and in files."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Probabilities", "predictions", "predictions_body"]

Probabilities = NDArray[np.float32]
"""float32 [N, classes]."""


def predictions(probabilities: Probabilities, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """For each instance its label, the label's index and the probabilities of all classes in their order."""
    best = probabilities.argmax(axis=1).tolist()
    rows = probabilities.tolist()
    return [
        {"label": classes[index], "index": index, "probabilities": row} for index, row in zip(best, rows, strict=True)
    ]


def predictions_body(probabilities: Probabilities, classes: tuple[str, ...]) -> bytes:
    """The body of an answer of `POST /invocations`."""
    body = {"predictions": predictions(probabilities, classes)}
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
