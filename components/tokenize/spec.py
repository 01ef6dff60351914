"""From tables of texts to record files of tokens."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from millrace.specs import (
    Dataset,
    Inputs,
    Metric,
    Metrics,
    Outputs,
    Parameters,
    Records,
    Rejects,
    Resources,
    component,
)

__all__ = ["Files", "Split", "TokenizeInputs", "TokenizeOutputs", "TokenizeParameters", "tokenize"]


def _called(*names: str) -> tuple[str, ...]:
    """Patterns of files with such a name, and of all files in folders with it."""
    forms = ("{}.*", "{}-*", "{}_*", "{}/*", "*/{}.*", "*/{}-*", "*/{}_*", "*/{}/*")
    return tuple(form.format(name) for name in names for form in forms)


class Files(Parameters):
    """Which files are which channel: shell patterns against the whole key, where `*` also stands for `/`.

    By default `train.csv`, `train-00000-of-00002.parquet` and `train/anything.jsonl` are train files, and so on.
    """

    train: tuple[str, ...] = Field(default=_called("train", "training"))
    """Training files; a channel without files of its own is split off them."""
    validation: tuple[str, ...] = Field(default=_called("validation", "val", "valid", "dev"))
    """Files for early stopping and tuning."""
    test: tuple[str, ...] = Field(default=_called("test", "testing"))
    """Files for the final evaluation."""


class Split(Parameters):
    """How the texts are divided that are in no file of a channel's own.

    By a hash of the text, without differences of space (and of capitals with `lower_case`): no text is in two
    channels, and none changes its channel when others are added. The one exception is what `minimum` moves for a
    class that is too small.
    """

    train: float = Field(default=0.8, gt=0, le=1)
    """Fraction of each class for training."""
    validation: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each class for early stopping and tuning."""
    test: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of each class for the final evaluation."""
    seed: int = Field(default=0, ge=0)
    """Another seed gives another split."""
    minimum: int = Field(default=1, ge=0)
    """Fewest texts of each class in each channel that is split off. Where the hash gives fewer, those with the
    nearest hashes are moved; it is an error when the class has too few."""

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, validation and test must add up to 1, they add up to {total:g}")
        return self


class TokenizeParameters(Parameters):
    """What to read, how to divide it and how texts become tokens."""

    source: str | None = Field(
        default=None, min_length=1, json_schema_extra={"format": "location", "or_input": "dataset"}
    )
    """A file, a folder, `s3://bucket/prefix` or `gs://bucket/prefix`. Not together with the input `dataset`."""
    include: tuple[str, ...] = ("*.csv", "*.tsv", "*.parquet", "*.jsonl", "*.ndjson")
    """Keys to take: shell patterns against the whole key. The ending says what a file is; `.json` is JSON lines."""
    exclude: tuple[str, ...] = ()
    """Keys to leave out, as `include`."""
    text: str = Field(default="text", min_length=1)
    """Column with the text."""
    label: str = Field(default="label", min_length=1)
    """Column with the class."""
    classes: tuple[str, ...] | None = Field(default=None, min_length=1)
    """The classes in their order; rows with another label are rejected. None takes all labels, sorted."""
    files: Files = Field(default=Files())
    """Which files are which channel."""
    split: Split = Field(default=Split())
    """How other texts are divided."""
    vocabulary: str | None = Field(default=None, min_length=1, json_schema_extra={"format": "location"})
    """A `vocab.txt` of WordPiece, one token a line: path or URI (s3://, gs://, file://). None builds one from the
    training texts."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What the vocabulary must hash to; required for s3:// and gs://."""
    vocabulary_size: int = Field(default=8000, ge=100, le=1_000_000)
    """Most tokens of a vocabulary that is built."""
    lower_case: bool = True
    """Bring texts to lower case without accents. It must be what the vocabulary was made for."""
    max_seq_length: int = Field(default=128, ge=3, le=8192)
    """Most tokens of a text, `[CLS]` and `[SEP]` included."""
    truncation: Literal["end", "start"] = "end"
    """Which part of longer texts is left out."""
    shards: int = Field(default=4, ge=1, le=10_000)
    """Record files of each channel, of sizes that differ by one text at most; fewer where there are fewer texts."""
    max_error_rate: float = Field(default=0.01, ge=0, le=1)
    """Largest part of the rows that may be rejected, rounded up to whole rows; 0 allows none."""

    @model_validator(mode="after")
    def _pinned(self) -> TokenizeParameters:
        if self.vocabulary is not None and self.vocabulary.startswith(("s3://", "gs://")) and self.sha256 is None:
            raise ValueError(f"vocabulary {self.vocabulary!r} needs sha256, the digest that the file must have")
        if self.vocabulary is None and self.sha256 is not None:
            raise ValueError("sha256 is the digest of a vocabulary that is given: give vocabulary as well")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes names a class twice")
        return self


class TokenizeInputs(Inputs):
    """Nothing, or a dataset made by an earlier task."""

    dataset: Dataset | None = None
    """What to read, in place of `source`."""


class TokenizeOutputs(Outputs):
    """What was made of the texts."""

    records: Records
    """Record files of tokens with counts, their schema, and `vocabulary.txt`."""
    rejects: Rejects
    """`rejects.parquet`: the rows that are in no record file, and why."""
    metrics: Metrics
    """The numbers below, and the texts of each channel."""
    texts: Metric
    """Number of texts taken."""
    classes: Metric
    """Number of classes."""
    rejected: Metric
    """Number of rows set aside as unusable."""
    leaks: Metric
    """Number of rows set aside because their text is also in a file of validation or test."""
    duplicates: Metric
    """Number of texts taken that equal one before them; they are in its channel."""
    truncated: Metric
    """Share of texts with more than `max_seq_length` tokens, which were cut."""
    unknown: Metric
    """Share of `[UNK]` among the tokens: high when the vocabulary is for other texts."""


tokenize = component(
    name="tokenize",
    version="1",
    description="Read tables of texts, divide them into channels and write record files of WordPiece tokens.",
    parameters=TokenizeParameters,
    inputs=TokenizeInputs,
    outputs=TokenizeOutputs,
    main="millrace.components.tokenize.main:main",
    image="data",
    resources=Resources(cpus=2, memory_gib=4),
    uncached_when=("source", "vocabulary"),
)
