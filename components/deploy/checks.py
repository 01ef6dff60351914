"""What an endpoint is asked before it is believed, and what its answers must be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.components.deploy.answers import Probabilities
from millrace.components.deploy.asking import Address, agreement, latency_ms, requests_per_second
from millrace.components.deploy.spec import DeployParameters
from millrace.errors import DataError, TaskFailedError
from millrace.runtime.datasets import load_arrays
from millrace.runtime.models import load_predictor
from millrace.runtime.records import counts
from millrace.runtime.schemas import Channel, TabularRecords, TextRecords
from millrace.runtime.texts import decode, load_encoder, load_vocabulary, padded

__all__ = ["Questions", "ask", "channel_with_records", "read_questions"]

_TIMED = 50


@dataclass(frozen=True)
class Questions:
    """Real records, and what the model itself answers about them."""

    examples: NDArray[Any]
    """Images, uint8 [N, H, W, C], or objects [N]: texts, or rows as dictionaries."""
    labels: NDArray[Any]
    """Index of each one's class."""
    own: Probabilities
    classes: tuple[str, ...]


def channel_with_records(records: Path) -> Channel:
    """The channel to ask with: test records, or what there is.

    Raises:
        DataError: When there are none.
    """
    for channel in ("test", "validation", "train"):
        if sum(file.records for file in counts(records, channel)):
            return channel
    raise DataError(f"{records}: there are no records to ask the endpoint with")


def read_questions(model: Path, records: Path, channel: Channel, limit: int) -> Questions:
    """Load the first records of a channel, and ask the model itself about them.

    Of texts the records have the tokens only, of rows the features: what is asked is what these tell of them.
    """
    examples, labels = load_arrays(records, channel, limit=limit)
    predictor = load_predictor(model)
    schema = predictor.card.records
    if isinstance(schema, TextRecords):
        vocabulary, encode = load_vocabulary(model, schema), load_encoder(model, schema)
        texts = [decode(ids, vocabulary) for ids in examples.tolist()]
        own = predictor.predict(padded(encode(texts), schema))
        return Questions(np.array(texts, dtype=object), labels, own, schema.classes)
    if isinstance(schema, TabularRecords):
        from millrace.components.deploy.rows import rows_of
        from millrace.runtime.tabular import row_features

        rows = rows_of(examples, schema.columns)
        own = predictor.predict(row_features(rows, schema))
        return Questions(np.array(rows, dtype=object), labels, own, schema.classes)
    return Questions(examples, labels, predictor.predict(examples), schema.classes)


def ask(address: Address, questions: Questions, parameters: DeployParameters) -> dict[str, float]:
    """The endpoint's metrics.

    Raises:
        httpx.HTTPError: When a request fails or is refused.
        TaskFailedError: When its answers differ from the model's own.
    """
    shares = agreement(address, questions.examples, questions.own, questions.classes, parameters)
    latency = latency_ms(address, questions.examples[:_TIMED], parameters)
    rate = requests_per_second(address, questions.examples, parameters)
    overall = sum(shares.values()) / len(shares)
    if overall < 1:
        told = ", ".join(f"{protocol} {share:.3f}" for protocol, share in shares.items())
        raise TaskFailedError(f"the endpoint's answers differ from the model's own; share of equal answers: {told}")
    return {"agreement": overall, "latency_ms": latency, "requests_per_second": rate}
