"""Texts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters

__all__ = ["TextData"]


class TextData(Parameters):
    """Texts, each a file in UTF-8 or in a column of a table, as tokens of WordPiece."""

    kind: Literal["text"] = "text"
    """What the objects are; the choice of the other fields goes with it."""
    column: str = Field(default="text", min_length=1)
    """Column with the text, where the objects are rows of tables."""
    vocabulary: str | None = Field(default=None, min_length=1, json_schema_extra={"format": "location"})
    """A `vocab.txt` of WordPiece, one token a line: path or URI (s3://, gs://, file://). None takes the one that
    `analyze` built from the training texts."""
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

    @model_validator(mode="after")
    def _pinned(self) -> TextData:
        if self.vocabulary is not None and self.vocabulary.startswith(("s3://", "gs://")) and self.sha256 is None:
            raise ValueError(f"vocabulary {self.vocabulary!r} needs sha256, the digest that the file must have")
        if self.vocabulary is None and self.sha256 is not None:
            raise ValueError("sha256 is the digest of a vocabulary that is given: give vocabulary as well")
        return self
