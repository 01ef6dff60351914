"""Parameters as rows of a table: every key that can be set is there, by the name it is set by."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

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


def test_given_values_take_the_place_of_defaults() -> None:
    values: dict[str, JsonValue] = {"shape": {"kind": "circle", "radius": 2}, "copies": {"train": 5}, "title": "a"}
    rows = {row.name: row.default for row in parameter_rows(Drawing.model_json_schema(), values)}
    assert rows["shape.kind"] == "circle"
    assert (rows["shape[circle].radius"], rows["shape[square].side"]) == ("2", "3")
    assert (rows["copies.train"], rows["copies.test"], rows["title"]) == ("5", "1", '"a"')


class Drawings(Parameters):
    first: Drawing = Drawing(title="one", shape=Square(side=7))


def test_defaults_of_a_group_as_a_whole_are_those_of_its_keys() -> None:
    rows = {row.name: row.default for row in parameter_rows(Drawings.model_json_schema())}
    assert (rows["first.title"], rows["first.shape[square].side"]) == ('"one"', "7")
