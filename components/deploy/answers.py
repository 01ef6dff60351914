"""Probabilities to response bodies of each protocol."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from millrace.components.deploy import image_payloads, text_payloads
from millrace.components.deploy.payloads import OUTPUTS, InferRequest
from millrace.runtime.answers import Probabilities, predictions
from millrace.runtime.schemas import ImageRecords, ModelCard, RecordsSchema, TabularRecords, TextRecords

__all__ = ["Probabilities", "csv_rows", "infer_response", "metadata", "npy", "predictions"]


def csv_rows(probabilities: Probabilities, classes: tuple[str, ...]) -> bytes:
    """One row an instance: the label, then the probabilities of all classes in their order."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for one in predictions(probabilities, classes):
        writer.writerow([one["label"], *one["probabilities"]])
    return text.getvalue().encode()


def npy(probabilities: Probabilities) -> bytes:
    """The probabilities as a .npy file."""
    stream = io.BytesIO()
    np.save(stream, probabilities, allow_pickle=False)
    return stream.getvalue()


def metadata(name: str, version: str, card: ModelCard, revision: str = "") -> dict[str, Any]:
    """A model's metadata of the Open Inference Protocol."""
    schema = card.records
    classes = len(schema.classes)
    shapes = {"probabilities": ("FP32", [-1, classes]), "index": ("INT64", [-1]), "label": ("BYTES", [-1])}
    return {
        "name": name,
        "versions": [version],
        "platform": {"keras": "tensorflow_savedmodel", "litert": "litert_tflite"}[card.format],
        "inputs": _inputs(schema),
        "outputs": [{"name": output, "datatype": shapes[output][0], "shape": shapes[output][1]} for output in OUTPUTS],
        "parameters": {
            "architecture": card.name,
            "quantization": card.quantization,
            **_treatment(schema),
            "classes": list(schema.classes),
            **({"revision": revision} if revision else {}),
        },
    }


def _inputs(schema: RecordsSchema) -> list[dict[str, Any]]:
    if isinstance(schema, TextRecords):
        return [{"name": text_payloads.INPUT, "datatype": "BYTES", "shape": [-1]}]
    if isinstance(schema, TabularRecords):
        types = {"numeric": "FP64", "bins": "FP64"}
        return [
            {
                "name": column.name,
                "datatype": types.get(column.kind, "BYTES"),
                "shape": [-1],
                "parameters": {"kind": column.kind},
            }
            for column in schema.columns
        ]
    return [
        {
            "name": image_payloads.INPUT,
            "datatype": "UINT8",
            "shape": [-1, *schema.shape],
            "parameters": {"encoded": "or BYTES [-1]: encoded images of any size in base64"},
        }
    ]


def _treatment(schema: RecordsSchema) -> dict[str, Any]:
    """How requests become what the model takes."""
    if isinstance(schema, ImageRecords):
        return {"resize": schema.resize}
    if isinstance(schema, TabularRecords):
        return {"features": schema.shape[0]}
    return {
        "max_seq_length": schema.max_seq_length,
        "lower_case": schema.lower_case,
        "truncation": schema.truncation,
        "vocabulary_sha256": schema.vocabulary_sha256,
    }


def infer_response(
    request: InferRequest, name: str, version: str, probabilities: Probabilities, classes: tuple[str, ...]
) -> dict[str, Any]:
    """The answer to an inference request: the outputs asked for, all when none is named."""
    best = probabilities.argmax(axis=1).tolist()
    count = len(best)
    made = {
        "probabilities": ("FP32", [count, len(classes)], probabilities.ravel().tolist()),
        "index": ("INT64", [count], best),
        "label": ("BYTES", [count], [classes[index] for index in best]),
    }
    wanted = [output.name for output in request.outputs] or OUTPUTS
    answer: dict[str, Any] = {
        "model_name": name,
        "model_version": version,
        "outputs": [
            {"name": output, "datatype": made[output][0], "shape": made[output][1], "data": made[output][2]}
            for output in dict.fromkeys(wanted)
        ],
    }
    return answer if request.id is None else {**answer, "id": request.id}
