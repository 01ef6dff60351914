"""Parameters as rows of a table: every key that can be set is there, by the name it is set by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from millrace.specs import Parameters
from millrace.specs.schema import parameter_rows


class Circle(Parameters):
    kind: Literal["circle"] = "circle"
    radius: float = Field(gt=0)
    """In pixels."""


class Square(Parameters):
    kind: Literal["square"] = "square"
    side: int = Field(default=3, ge=1, le=9)


class Counts(Parameters):
    """A number apart for each channel."""

    train: int = Field(default=2, ge=1)
    test: int = Field(default=1, ge=1)


class Drawing(Parameters):
    shape: Annotated[Circle | Square, Field(discriminator="kind")] = Square()
    copies: int | Counts = Field(default=1)
    title: str | None = None


def test_each_key_has_a_row() -> None:
    rows = {row.name: row for row in parameter_rows(Drawing.model_json_schema())}
    assert list(rows) == [
        *("shape.kind", "shape[circle].radius", "shape[square].side"),
        *("copies", "copies.train", "copies.test", "title"),
    ]
    assert rows["shape.kind"].default == "square"
    assert (rows["shape[circle].radius"].default, rows["shape[circle].radius"].description) == ("", "In pixels.")
    assert rows["shape[square].side"].kind == "integer >= 1, <= 9"
    assert rows["copies"].kind == "integer | object"
    assert rows["copies.train"].default == "2"
    assert rows["title"].default == "null"
