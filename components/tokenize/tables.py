"""Tables of texts, found below a source and read in batches: they may be larger than memory."""

from __future__ import annotations

import codecs
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from millrace.components.tokenize.spec import TokenizeInputs, TokenizeParameters
from millrace.errors import ConfigError, DataError, did_you_mean
from millrace.runtime.buckets import copy_from_bucket
from millrace.runtime.schemas import Channel
from millrace.runtime.storage import Listed, Patience, list_objects, parse_source

__all__ = ["Table", "find_tables", "read_table"]

_BATCH = 20_000
_HIDDEN = re.compile(r"(^|/)(\.|__MACOSX/)")  # also what macOS puts beside each file in an archive
_INFERRED = 1000  # lines of JSON whose keys are looked at
_READERS: Mapping[str, Callable[[Path, Sequence[str]], pl.LazyFrame]] = {
    ".csv": lambda path, columns: _scan_csv(path, ","),
    ".tsv": lambda path, columns: _scan_csv(path, "\t"),
    ".parquet": lambda path, columns: pl.scan_parquet(path, glob=False),
    ".jsonl": lambda path, columns: _scan_lines(path, columns),
    ".ndjson": lambda path, columns: _scan_lines(path, columns),
    ".json": lambda path, columns: _scan_lines(path, columns),
}


class Table(NamedTuple):
    """One file of texts."""

    uri: str
    """As other machines know it."""
    path: Path
    """Where it can be read here."""
    channel: Channel | None
    """None when its texts are divided among the channels."""


def find_tables(parameters: TokenizeParameters, inputs: TokenizeInputs, scratch: Path) -> list[Table]:
    """The tables below the source by key, those of buckets copied to this machine.

    Raises:
        ConfigError: When there is no source, or two.
        DataError: When there are no tables, or it is not clear what channel one is.
    """
    place, uri = _source(parameters, inputs)
    objects = list(_listed(place))
    wanted, unwanted = _pattern(parameters.include), _pattern(parameters.exclude)
    chosen = [
        item
        for item in objects
        if wanted.match(item.key) and not unwanted.match(item.key) and not _HIDDEN.search(item.key)
    ]
    if not chosen:
        first = f"; the first of {len(objects)} keys there is {objects[0].key!r}" if objects else ""
        raise DataError(
            f"there are no tables of texts at {place} with include={list(parameters.include)} and "
            f"exclude={list(parameters.exclude)}{first}"
        )
    channels = _channels([item.key for item in chosen], parameters)
    return [
        Table(f"{uri.rstrip('/')}/{item.key}" if uri else item.uri, _here(item, scratch / f"{number}"), channel)
        for number, (item, channel) in enumerate(zip(chosen, channels, strict=True))
    ]


def read_table(table: Table, text: str, label: str) -> Iterator[pl.DataFrame]:
    """The rows in order, in batches with the columns `text` and `label`, both strings or null.

    Raises:
        DataError: When the file is no such table or lacks a column.
    """
    try:
        _check_encoding(table)
        frame = _READERS[table.path.suffix.lower()](table.path, (text, label))
        names = frame.collect_schema().names()
        for column, parameter in ((text, "text"), (label, "label")):
            if column not in names:
                raise DataError(
                    f"{table.uri} has no column {column!r}; it has: {', '.join(map(repr, names))}: "
                    f"set tokenize.{parameter} to the one that is meant: {did_you_mean(column, names)}"
                )
        chosen = frame.select(pl.col(text).cast(pl.String).alias("text"), pl.col(label).cast(pl.String).alias("label"))
        yield from chosen.collect_batches(chunk_size=_BATCH, maintain_order=True)
    except (pl.exceptions.PolarsError, UnicodeDecodeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{table.uri} can't be read as {table.path.suffix.lower()[1:]} in UTF-8: {reason}") from error


def _check_encoding(table: Table) -> None:
    """Spreadsheet programs save UTF-16, which else is told as columns full of zero bytes."""
    kind = table.path.suffix.lower()[1:]
    if kind == "parquet":
        return
    with table.path.open("rb") as stream:
        start = stream.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in start:
        raise DataError(
            f"{table.uri} is UTF-16, UTF-8 is needed: save it so, or iconv -f UTF-16 -t UTF-8 FILE > NEW.{kind}"
        )


def _scan_csv(path: Path, separator: str) -> pl.LazyFrame:
    return pl.scan_csv(path, separator=separator, infer_schema=False, glob=False)


def _scan_lines(path: Path, columns: Sequence[str]) -> pl.LazyFrame:
    """JSON lines; columns that none of the first lines has are not there."""
    there = pl.scan_ndjson(path, n_rows=_INFERRED, infer_schema_length=_INFERRED).collect_schema().names()
    if not set(columns) <= set(there):
        return pl.LazyFrame(schema=dict.fromkeys(there, pl.String))
    return pl.scan_ndjson(path, schema=dict.fromkeys(columns, pl.String))


def _source(parameters: TokenizeParameters, inputs: TokenizeInputs) -> tuple[str, str]:
    """Where tables are read, and the URI that others know the place by when it is another."""
    needed = "tokenize needs its parameter source or its input dataset"
    if parameters.source is not None and inputs.dataset is not None:
        raise ConfigError(f"{needed}, not both: leave source={parameters.source!r} out")
    if inputs.dataset is not None:
        return str(inputs.dataset.path), inputs.dataset.uri
    if parameters.source is None:
        raise ConfigError(
            f"{needed}: set tokenize.source to a file, a folder, s3://bucket/prefix or gs://bucket/prefix"
        )
    return parameters.source, ""


def _listed(place: str) -> Iterator[Listed]:
    """Objects at or below a place, by key; the key of a single file is its name."""
    scheme, rest = parse_source(place)
    file = Path(rest)
    if scheme == "file" and file.is_file():
        status = file.stat()
        yield Listed(file.as_uri(), file.name, status.st_size, status.st_mtime_ns)
        return
    items = list(list_objects(place))
    if not items and scheme != "file" and file.suffix.lower() in _READERS:
        items = [Listed(place, file.name, -1, 0)]
    yield from items


def _channels(keys: Sequence[str], parameters: TokenizeParameters) -> list[Channel | None]:
    files = parameters.files
    patterns: dict[Channel, re.Pattern[str]] = {
        "train": _pattern(files.train), "validation": _pattern(files.validation), "test": _pattern(files.test)
    }  # fmt: skip
    found: list[Channel | None] = []
    for key in keys:
        fitting: list[Channel] = [channel for channel, pattern in patterns.items() if pattern.match(key)]
        if len(fitting) > 1:
            raise DataError(f"{key} is a file of {' and of '.join(fitting)} by tokenize.files: change the patterns")
        found.append(fitting[0] if fitting else None)
    others = [key for key, channel in zip(keys, found, strict=True) if channel is None]
    if "train" in found and others:
        more = f" ({len(others) - 1} more do)" if len(others) > 1 else ""
        raise DataError(
            f"{others[0]} lies beside train files and is of no channel{more}: leave it out with "
            "tokenize.exclude, or name its channel in tokenize.files"
        )
    return [None if channel == "train" else channel for channel in found]


def _here(item: Listed, folder: Path) -> Path:
    suffix = Path(item.key).suffix.lower()
    if suffix not in _READERS:
        raise DataError(f"{item.key}: {suffix or 'no ending'} is no known kind of table; known: {', '.join(_READERS)}")
    scheme, rest = parse_source(item.uri)
    if scheme == "file":
        return Path(rest)
    bucket, _, key = rest.partition("/")
    target = folder.with_suffix(suffix)
    copy_from_bucket(scheme, bucket, key, target, Patience())
    return target


def _pattern(globs: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs) or r"(?!)", re.IGNORECASE)
