"""Bodies of requests to features of rows, made by what the model's records were made with."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from millrace.components.deploy.payloads import (
    NUMERIC,
    InferRequest,
    PayloadError,
    check_count,
    decoded,
    parse_csv,
    parse_instances,
    parse_json,
    parse_request,
)
from millrace.errors import DataError, did_you_mean
from millrace.runtime.limits import Limits
from millrace.runtime.schemas import TabularRecords
from millrace.runtime.separators import separator_of
from millrace.runtime.tabular import Featurizer

__all__ = ["ExpectedRows", "Features", "from_csv", "from_infer", "from_instances"]

Features = NDArray[np.float32]
"""float32 [N, features]."""

_NEEDED = '{"COLUMN": VALUE, ...}, ...'
_SHOWN = 100  # characters
_TYPES = (*NUMERIC, "BOOL", "BYTES")


@dataclass(frozen=True)
class ExpectedRows:
    """What one request may hold."""

    schema: TabularRecords
    limits: Limits

    @cached_property
    def featurizer(self) -> Featurizer:
        """What makes the features of all requests."""
        return Featurizer(self.schema.columns, self.schema.ignored)


def from_instances(body: bytes, expected: ExpectedRows, *, bare: bool = False) -> Features:
    """Features of `{"instances": [...]}`: an object a row, its values by column; what is missing or null is missing.

    Args:
        body: JSON text.
        expected: Limits of the endpoint, and its columns.
        bare: Whether an array of rows, or one row, will do as well.

    Raises:
        PayloadError: When it is anything else.
    """
    return _features(parse_instances(body, _NEEDED, _is_row, bare=bare), expected)


def _is_row(parsed: Any) -> bool:
    return isinstance(parsed, dict) and "instances" not in parsed


def from_csv(body: bytes, expected: ExpectedRows) -> Features:
    """Features of CSV with a header that names the columns, in any order; an empty value is missing.

    Values are separated as in tables of training. Columns that training left out, or without a name, are ignored.

    Raises:
        PayloadError: When a row has another number of values than the header, or a value can't be taken.
    """
    text = decoded(body)
    separator = separator_of(text, whole=True)
    rows = parse_csv(text, separator)
    header, *lines = rows or [[]]
    if rows:
        _check_header(header, separator, expected.featurizer)
    for index, line in enumerate(lines):
        if len(line) != len(header):
            raise PayloadError(
                f"row {index} has {len(line)} values, the header names {len(header)} columns, separated by "
                f"{separator!r}"
            )
    ignored = {"", *expected.schema.ignored}
    kept = [(place, name) for place, name in enumerate(header) if name not in ignored]
    return _features([{name: line[place] for place, name in kept} for line in lines], expected)


def _check_header(header: Sequence[str], separator: str, featurizer: Featurizer) -> None:
    if twice := next((name for name, count in Counter(header).items() if name and count > 1), None):
        raise PayloadError(f"the header names column {twice!r} twice")
    names = featurizer.names
    unknown = next((name for name in header if name and name not in featurizer.known), None)
    if names.keys().isdisjoint(header):
        raise PayloadError(
            f"the first line names none of the model's columns: {separator.join(header)[:_SHOWN]!r}; it must be a "
            f"header, with some of {', '.join([*names][:10])}"
        )
    if unknown is not None:
        raise PayloadError(
            f"the header names {len(header)} columns, the model has {len(names)}; unknown column {unknown[:_SHOWN]!r}: "
            f"{did_you_mean(unknown, names)}"
        )


def from_infer(body: bytes, expected: ExpectedRows) -> tuple[InferRequest, Features]:
    """The request and features of an Open Inference Protocol body with a tensor [N] or [N, 1] a column.

    Raises:
        PayloadError: When the body is malformed or asks for what the model does not have.
    """
    request = parse_request(parse_json(body))
    columns: dict[str, list[Any]] = {}
    for tensor in request.inputs:
        if tensor.datatype not in _TYPES:
            raise PayloadError(f"{tensor.name}: datatype {tensor.datatype!r}, allowed: {', '.join(_TYPES)}")
        if tensor.shape[1:] not in ([], [1]) or math.prod(tensor.shape) != len(tensor.data):
            raise PayloadError(
                f"{tensor.name}: shape {tensor.shape} with {len(tensor.data)} elements, needed: [N], a value a row"
            )
        if tensor.name in columns:
            raise PayloadError(f"inputs: {tensor.name!r} is given twice")
        columns[tensor.name] = tensor.data
    sizes = {name: len(values) for name, values in columns.items()}
    if len(set(sizes.values())) != 1:
        given = ", ".join(f"{name!r} {size}" for name, size in list(sizes.items())[:8]) or "none"
        raise PayloadError(f"inputs: an input for each column, all of as many rows, given: {given}")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return request, _features(rows, expected)


def _features(rows: Sequence[Any], expected: ExpectedRows) -> Features:
    check_count(len(rows), expected.limits)
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise PayloadError(f"row {index}: given {type(row).__name__}, needed: an object with a value a column")
        _check_some(row, index, expected.featurizer)
    try:
        return expected.featurizer.of_rows(rows)
    except DataError as error:
        raise PayloadError(str(error)) from error


def _check_some(row: Mapping[str, Any], index: int, featurizer: Featurizer) -> None:
    """Refuse a row without one known column, of which every answer would be about missing values."""
    names = featurizer.names
    if names.keys().isdisjoint(row):
        told = f": {did_you_mean(next(iter(row)), names)}" if row else f", the columns are {', '.join([*names][:10])}"
        raise PayloadError(f"row {index} has none of the model's columns{told}")
