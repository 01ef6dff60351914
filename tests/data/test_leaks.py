"""What is in two channels is found, however it got there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.data.leaks import KINDS, check_leaks
from millrace.errors import DataError

SCHEMA = {
    "uri": pl.String,
    "channel": pl.String,
    "size": pl.Int64,
    "etag": pl.String,
    "content": pl.String,
    "group": pl.String,
    "row": pl.Int64,
}


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    pl.DataFrame([{name: row.get(name) for name in SCHEMA} for row in rows], schema=SCHEMA).write_parquet(path)
    return path


def row(uri: str, channel: str, **more: Any) -> dict[str, Any]:
    return {"uri": uri, "channel": channel, "size": 5, "content": f"sha of {uri}", **more}


class TestLeaks:
    def test_none(self, tmp_path: Path) -> None:
        rows = [
            row("a", "train", content="x", group="g"),
            row("b", "train", content="x", group="g"),
            row("c", "validation", group="h"),
            row("d", "test"),
        ]
        found = check_leaks(write(tmp_path / "index.parquet", rows))
        assert found.clean
        assert (found.objects, found.known, found.leaks) == (
            4,
            {"object": 4, "content": 4, "group": 3},
            {"object": 0, "content": 0, "group": 0},
        )
        assert (
            found.verdict() == "no leaks: of 4 objects no object, no content and no group is in more than one channel"
        )

    def test_each_kind(self, tmp_path: Path) -> None:
        rows = [
            row("a", "train", group="g"),
            row("b", "train", content="x"),
            row("c", "test", group="g"),
            row("d", "test", content="x"),
            row("d", "validation", content="y"),
            row("e", "validation", content="x"),
        ]
        found = check_leaks(write(tmp_path / "index.parquet", rows))
        assert not found.clean
        assert found.verdict() == "leaks: in more than one channel there are 1 object, 1 content, 1 group"
        assert {leak.kind: (leak.value, leak.objects) for leak in found.examples} == {
            "object": ("d", {"validation": "d", "test": "d"}),
            "content": ("x", {"train": "b", "validation": "e", "test": "d"}),
            "group": ("g", {"train": "a", "test": "c"}),
        }
        assert "  group g: train: a; test: c" in found.details()

    def test_contents_that_are_not_known(self, tmp_path: Path) -> None:
        rows = [
            row("a", "train", content=None),
            row("b", "test", content=None),
            row("c", "train", content=None, etag="e"),
            row("d", "test", content=None, etag="e", size=6),
            row("t#row=0", "train", content=None, etag="f", row=0),
            row("t#row=1", "test", content=None, etag="f", row=1),
        ]
        found = check_leaks(write(tmp_path / "index.parquet", rows))
        assert found.clean
        assert found.verdict().endswith("is in more than one channel; the contents of 4 are not known")
        rows[3]["size"] = 5
        found = check_leaks(write(tmp_path / "index.parquet", rows))
        assert [(leak.kind, leak.value) for leak in found.examples] == [("content", "etag e of 5 bytes")]

    def test_many(self, tmp_path: Path) -> None:
        rows = [
            row(f"{channel}{number}", channel, content=str(number))
            for number in range(50)
            for channel in ("train", "test")
        ]
        found = check_leaks(write(tmp_path / "index.parquet", rows), examples=3)
        assert (found.leaks["content"], len(found.examples)) == (50, 3)

    def test_not_a_manifest(self, tmp_path: Path) -> None:
        (tmp_path / "index.parquet").write_text("no table")
        with pytest.raises(DataError, match="is not the table of a manifest"):
            check_leaks(tmp_path / "index.parquet")
        with pytest.raises(DataError, match="is not the table of a manifest"):
            check_leaks(tmp_path / "nowhere.parquet")

    @settings(max_examples=25, deadline=None)
    @given(
        rows=st.lists(
            st.tuples(
                st.integers(0, 12),
                st.sampled_from(["train", "validation", "test"]),
                st.integers(0, 12),
                st.integers(0, 9),
            ),
            min_size=1,
            max_size=30,
        ),
        in_memory=st.sampled_from([9, 1000]),
    )
    def test_as_a_plain_count_finds_them(self, rows: list[tuple[int, str, int, int]], in_memory: int) -> None:
        channels: dict[tuple[str, str], set[str]] = defaultdict(set)
        table = []
        for uri, channel, content, group in rows:
            one = row(str(uri), channel, content=str(content), group=str(group) if group else None)
            table.append(one)
            for kind, name in zip(KINDS, ("uri", "content", "group"), strict=True):
                if one[name] is not None:
                    channels[kind, one[name]].add(channel)
        expected = {kind: sum(len(seen) > 1 for (of, _), seen in channels.items() if of == kind) for kind in KINDS}
        with TemporaryDirectory() as folder:
            found = check_leaks(write(Path(folder) / "index.parquet", table), in_memory=in_memory)
        assert found.leaks == expected
