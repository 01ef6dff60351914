"""Objects to list, what the manifest component made of them, and manifests for what comes after."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st
from PIL import Image

from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.testing import Ran, run_component
from tests.files import write_files
from tests.pictures import saved


def picture(seed: int, form: str = "PNG") -> bytes:
    """A small picture, another one for each seed."""
    color = (seed % 256, seed // 256 % 256, seed // 65536 % 256)
    return saved(Image.new("RGB", (4, 3), color), form)


def pictures(*names: str, each: int = 5) -> dict[str, bytes]:
    """`each` different pictures in each folder."""
    keys = [f"{name}/{number}.png" for name in names for number in range(each)]
    return {key: picture(seed) for seed, key in enumerate(keys)}


@st.composite
def labelled(draw: st.DrawFn) -> dict[str, bytes]:
    """Contents by key in two classes; some contents and groups come more than once."""
    size, chance = draw(st.integers(24, 40)), random.Random(draw(st.integers(0, 10**6)))
    numbers = [(chance.randrange(size), chance.randrange(5 * size)) for _ in range(2 * size)]
    return {
        f"{'cats' if number % 2 else 'dogs'}/g{group}-{number}.bin": f"{number % 2} {content}".encode()
        for number, (group, content) in enumerate(numbers)
    }


def table(rows: int, start: int = 0, classes: str = "ab") -> str:
    """Texts that are all different, with their classes in turn."""
    lines = [f"text {number},{classes[number % len(classes)]}" for number in range(start, start + rows)]
    return "\n".join(("text,label", *lines, ""))


_COLUMNS = {
    "uri": pl.String,
    "prefix": pl.String,
    "key": pl.String,
    "class_label": pl.String,
    "label": pl.Int64,
    "channel": pl.String,
    "size": pl.Int64,
    "etag": pl.String,
    "row": pl.Int64,
}
PREFIX = "s3://bucket/p/"


def write_manifest(folder: Path, rows: Iterable[Mapping[str, Any]], **catalogue: str) -> Path:
    """A Manifest artifact of two classes: of each object its `key`, and whatever else is not as usual."""
    usual = {"prefix": PREFIX, "class_label": "cats", "label": 0, "channel": "train", "size": 100, "etag": "e"}
    table = [{**usual, "row": None, "uri": f"{PREFIX}{row['key']}", **row} for row in rows]
    folder.mkdir(parents=True)
    pl.DataFrame(table, schema=_COLUMNS).write_parquet(folder / "index.parquet", row_group_size=7)
    (folder / "classes.json").write_text(json.dumps({"classes": ["cats", "dogs"], **catalogue}))
    return folder


def run(tmp_path: Path, files: Mapping[str, bytes], **parameters: Any) -> Ran:
    source = write_files(tmp_path / "source", files)
    return run_component(manifest, ManifestParameters(source=str(source), **parameters), tmp_path / "task")


def index(ran: Ran) -> pl.DataFrame:
    """The lineage table."""
    return pl.read_parquet(ran.outputs["manifest"] / "index.parquet")


def column(ran: Ran, name: str) -> dict[str, Any]:
    """A column of the lineage table by key."""
    return dict(index(ran).select("key", name).iter_rows())


def keys(ran: Ran) -> set[str]:
    return set(index(ran)["key"])


def rejects(ran: Ran) -> pl.DataFrame:
    return pl.read_parquet(ran.outputs["rejects"] / "rejects.parquet")


def reasons(ran: Ran) -> dict[str, str]:
    """Reason by file name."""
    return {uri.rpartition("/")[2]: reason for uri, reason in rejects(ran).select("uri", "reason").iter_rows()}


def files(ran: Ran) -> list[Path]:
    return [file for folder in ran.outputs.values() for file in folder.rglob("*") if file.is_file()]
