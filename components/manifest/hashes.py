"""64 bits that stand for a text or a content: the same in every run and on every machine.

Two of a billion different ones are equal by chance about once in 40 manifests: they would be split alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

__all__ = ["hash_digests", "hash_listed", "hash_texts", "mix"]

Hashes = NDArray[np.uint64]

_MD5 = r'^"?[0-9a-fA-F]{32}(-[0-9]+)?"?$'  # what most stores use as ETag; with a number when uploaded in pieces


def mix(values: Hashes) -> Hashes:
    """Other numbers that are spread evenly, one for each: the steps of splitmix64."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def hash_digests(digests: pl.Series) -> Hashes:
    """Of digests as hexadecimal digits: their first 64 bits. 0 for null."""
    start = digests.str.slice(0, 16).str.to_lowercase().str.decode("hex", strict=False)
    return start.bin.reinterpret(dtype=pl.UInt64, endianness="big").fill_null(0).to_numpy()


def hash_texts(texts: pl.Series) -> Hashes:
    """Of any texts; 0 for null."""
    known = texts.unique()
    if known.len() == texts.len():
        return _blake(texts.to_list())
    hashes = pl.Series(_blake(known.to_list()), dtype=pl.UInt64)
    return texts.replace_strict(known, hashes, return_dtype=pl.UInt64).fill_null(0).to_numpy()


def hash_listed(rows: pl.DataFrame) -> Hashes:
    """Of what a listing tells: objects of the same ETag and size count as equal, those without stand for themselves.

    Args:
        rows: With `key`, `size` and `etag`.
    """
    usual = rows["etag"].str.contains(_MD5).fill_null(False)
    digests = rows["etag"].str.strip_chars('"').set(~usual, None)
    # All of it counts: ETags that look like digests need not be any.
    hashes = mix(hash_digests(digests)) ^ hash_digests(digests.str.slice(16, 16))
    sizes = rows["size"].fill_null(0).cast(pl.Int64).to_numpy().astype(np.uint64)
    hashes = mix(hashes ^ mix(sizes))
    others = np.flatnonzero(~usual.to_numpy())
    if len(others):
        told = (
            pl.when(pl.col("etag").is_null())
            .then(pl.format("key:{}", "key"))
            .otherwise(pl.format("etag:{}:{}", "etag", "size"))
        )
        hashes[others] = hash_texts(rows[others].select(told.alias("told"))["told"])
    return hashes


def _blake(texts: Sequence[str | None]) -> Hashes:
    digests = (
        hashlib.blake2b(text.encode(), digest_size=8).digest() if text is not None else b"\0" * 8 for text in texts
    )
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)
