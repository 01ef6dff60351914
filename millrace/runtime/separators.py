"""What separates the values of CSV; the same for tables that are trained on and for rows that an endpoint is asked."""

from __future__ import annotations

import csv
import io
from itertools import islice

__all__ = ["separator_of"]

_KNOWN = ",;\t|"
_LOOKED_AT = 20  # rows


def separator_of(text: str, *, whole: bool) -> str:
    """Comma, semicolon, tab or bar: the one that gives the first rows as many values as the header has names.

    When several do, it is the one with the most columns; when none does, the comma if the header has one, else the
    one that the header has most of.

    Args:
        text: CSV from its header on.
        whole: Whether it is all of it; else its last line may be cut off.
    """
    rows = {separator: _first(text, separator, whole) for separator in _KNOWN}
    fitting = [
        separator for separator, found in rows.items() if len(found) > 1 and len({len(row) for row in found}) == 1
    ]
    if fitting:
        best = max(fitting, key=lambda separator: len(rows[separator][0]))
        if len(rows[best][0]) > 1:
            return best
    header = rows[","][0] if rows[","] else []
    if len(header) != 1:
        return ","
    return max(_KNOWN, key=header[0].count)


def _first(text: str, separator: str, whole: bool) -> list[list[str]]:
    """The header and the first rows; none when they can't be read so."""
    try:
        found = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=separator), _LOOKED_AT + 1))
    except csv.Error:
        return []
    if not whole and 1 < len(found) <= _LOOKED_AT:
        found.pop()
    return [row for row in found if row]
