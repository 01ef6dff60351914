"""A few test records with the answers of a trained model."""

from __future__ import annotations

from typing import Any

from millrace.runtime.datasets import decode_records
from millrace.runtime.schemas import VOCABULARY, TextRecords
from millrace.runtime.texts import decode, read_vocabulary
from millrace.specs import Table
from millrace.training.data import Data, own_records

__all__ = ["sample_answers"]

_KINDS = {"image": "picture", "text": "text", "tabular": "row"}
_LONGEST = 200  # characters of a text that are shown


def sample_answers(model: Any, data: Data, count: int) -> Table:
    """The first `count` test records that this rank reads: each with its class, the model's answer and its probability.

    Texts are shown as far as their tokens tell them, pictures and rows by their URI.
    """
    classes = data.schema.classes
    records = decode_records(own_records(data, "test").take(count), data.schema, with_uri=True)
    shown = []
    for examples, labels, uris in records.batch(count).as_numpy_iterator():
        answers = model(examples, training=False).numpy()
        for title, label, answer in zip(_titles(examples, uris, data), labels, answers, strict=True):
            best = int(answer.argmax())
            shown.append((title, classes[int(label)], classes[best], f"{answer[best]:.3f}"))
    columns = (_KINDS[data.schema.kind], "class", "answer", "probability")
    return Table(name="sample_predictions", title="Sample predictions", columns=columns, rows=tuple(shown))


def _titles(examples: Any, uris: Any, data: Data) -> list[str]:
    if not isinstance(data.schema, TextRecords):
        return [uri.decode() for uri in uris]
    path = data.records / VOCABULARY
    vocabulary = read_vocabulary(path.read_bytes(), str(path))
    texts = (decode(map(int, ids), vocabulary) for ids in examples)
    return [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in texts]
