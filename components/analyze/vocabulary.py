"""The vocabulary of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial

import polars as pl

from millrace.components.analyze.spec import AnalyzeOutputs
from millrace.data.analysis import write_analysis
from millrace.data.gathered import Gathered
from millrace.data.options import TextData
from millrace.data.texts import TextProblem, read_texts
from millrace.data.vocabulary import build_vocabulary, given_vocabulary, text_schema
from millrace.errors import DataError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import VOCABULARY, ShardPlan
from millrace.specs import Table

__all__ = ["analyze_texts"]

_BATCH = 1000
_SHOWN = 50


def analyze_texts(
    data: TextData, plan: ShardPlan, objects: pl.DataFrame, outputs: AnalyzeOutputs, context: Context
) -> Result:
    """Build the vocabulary, or take the one that is given; `schema.json` and `vocabulary.txt`.

    Raises:
        DataError: When the texts or the vocabulary can't be used.
    """
    vocabulary = given_vocabulary(data, "analyze")
    left_out = 0
    if vocabulary is None:
        gathered = _gather(data, plan, objects, context)
        left_out = objects.height - gathered.rows
        vocabulary = build_vocabulary(partial(_texts, gathered), data.vocabulary_size, lower_case=data.lower_case)
        read = gathered.rows
    else:
        read = 0
    schema = text_schema(data, plan.classes, vocabulary)
    (outputs.analysis.path / VOCABULARY).write_bytes(vocabulary)
    write_analysis(outputs.analysis.path, schema, data)
    context.log.info("%d tokens, learnt from %d texts", schema.vocabulary_size, read)
    metrics: dict[str, float] = {"objects": read, "features": schema.vocabulary_size, "left_out": left_out}
    return Result(metrics=metrics, charts=(_table(vocabulary),))


def _gather(data: TextData, plan: ShardPlan, objects: pl.DataFrame, context: Context) -> Gathered:
    gathered = Gathered(context.scratch / "texts")
    left: Counter[str] = Counter()
    waiting: list[str] = []
    for done, (_, text) in enumerate(read_texts(objects, data.column, plan, context.scratch), start=1):
        if isinstance(text, TextProblem):
            left[text.reason] += 1
        else:
            waiting.append(text)
        if len(waiting) == _BATCH:
            gathered.add(pl.DataFrame({"text": waiting}), "")
            waiting = []
        context.progress(done, objects.height, "texts")
    if waiting:
        gathered.add(pl.DataFrame({"text": waiting}), "")
    if left:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left.most_common())
        context.log.warning("%d of %d texts are not learnt from: %s", left.total(), objects.height, reasons)
    if not gathered.rows:
        raise DataError(f"none of the {objects.height} training texts can be read: {dict(left)}")
    return gathered


def _texts(gathered: Gathered) -> Iterator[str]:
    for part in gathered.column("text"):
        yield from part


def _table(vocabulary: bytes) -> Table:
    tokens = vocabulary.decode().splitlines()
    return Table(
        name="vocabulary",
        title=f"The vocabulary: {len(tokens)} tokens, the first {min(len(tokens), _SHOWN)}",
        columns=("id", "token"),
        rows=tuple((str(number), token.strip()) for number, token in enumerate(tokens[:_SHOWN])),
    )
