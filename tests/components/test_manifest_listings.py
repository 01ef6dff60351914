"""Inventories and lists of keys instead of a listing: the whole component makes the same of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from millrace.components.manifest.spec import ManifestParameters, manifest
from millrace.data.listings import inventory_batches
from millrace.errors import DataError
from millrace.testing import Ran, run_component
from tests.components.manifest_data import index, pictures, rejects, table
from tests.components.test_manifest_previous import changes
from tests.conftest import Bucket
from tests.data.test_listings import csv_part, parquet_part, row, write_report

NAMES = (
    "a b.png", 'quo"te, comma.png', "it's.png", "100%25 #row=3.png", "50%.png", "néé 猫 😀.png", "back\\slash.png",
    "?x=1&y=2+3.png", "{}{0}$1.png", " lead and trail .png", "~*[x].png",
)  # fmt: skip


@pytest.fixture
def source(s3: Bucket) -> str:
    """Pictures with hostile names, some below empty folders, objects that are set aside, and markers of folders."""
    files = pictures("cats", "dogs", each=20)
    for name, (key, data) in zip(NAMES, files.items(), strict=False):
        s3.put(f"p/{key.partition('/')[0]}/{name}", data + b"0")
    for key, data in files.items():
        s3.put(f"p/{key}", data)
    for key in ("p//cats/slash.png", "p/dogs//cats/empty part.png"):
        s3.put(key, next(iter(files.values())) + key.encode())
    for key in ("p/cats/broken.png", "p/.hidden", "p/root.png", "p/dogs/./dot.png"):
        s3.put(key, b"no picture")
    for key in ("p/", "p/cats/", "p/dogs/empty.png"):
        s3.put(key, b"")
    s3.put("p-not/cats/other.png", b"x")
    return s3.uri("p")


def listed(s3: Bucket, **changed: object) -> list[dict[str, object]]:
    """What an inventory tells of the bucket, in no order."""
    pages = s3.client.get_paginator("list_objects_v2").paginate(Bucket=s3.name)
    rows = [
        row(
            "", Bucket=s3.name, Key=item["Key"], VersionId="", Size=item["Size"], ETag=item["ETag"].strip('"'),
            LastModifiedDate=item["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        ) | changed
        for page in pages
        for item in page["Contents"]
    ]  # fmt: skip
    return sorted(rows, key=lambda one: str(one["Key"])[::-1])


def report(s3: Bucket, folder: Path, form: str, rows: list[dict[str, object]]) -> str:
    """A report of several data files in a bucket of its own."""
    parts = [rows[start::3] for start in range(min(3, len(rows)))]
    if form == "CSV":
        manifest_json = write_report(folder, [csv_part(part) for part in parts], sourceBucket=s3.name)
    else:
        data = [parquet_part(part, folder / "part.parquet") for part in parts]
        manifest_json = write_report(
            folder, data, "Parquet", "parquet", sourceBucket=s3.name, fileSchema="message s3.inventory {}"
        )
    s3.client.create_bucket(Bucket=f"{s3.name}-reports")
    for file in (folder / "photos").rglob("*.*"):
        key = f"reports/{file.relative_to(folder).as_posix()}"
        s3.client.put_object(Bucket=f"{s3.name}-reports", Key=key, Body=file.read_bytes())
    return f"s3://{s3.name}-reports/reports/{Path(manifest_json).relative_to(folder).as_posix()}"


def run(source: str, task: Path, **parameters: Any) -> Ran:
    return run_component(manifest, ManifestParameters.model_validate({"source": source, **parameters}), task)


def made(ran: Ran) -> dict[str, bytes]:
    """All files of the outputs but the numbers."""
    folders = [ran.outputs["manifest"], ran.outputs["rejects"]]
    return {file.name: file.read_bytes() for folder in folders for file in folder.iterdir()}


class TestInventory:
    @pytest.mark.parametrize("form", ["CSV", "Parquet"])
    @pytest.mark.parametrize("contents", ["read", "listed"])
    def test_makes_what_the_listing_makes(
        self, s3: Bucket, source: str, tmp_path: Path, form: str, contents: str
    ) -> None:
        listing = {"kind": "inventory", "manifest": report(s3, tmp_path, form, listed(s3))}
        told = run(source, tmp_path / "told", listing=listing, contents=contents)
        asked = run(source, tmp_path / "asked", contents=contents)
        assert made(told) == made(asked)
        assert told.metrics == asked.metrics
        assert {"/cats/slash.png", "dogs//cats/empty part.png"} < set(index(told)["key"])
        assert {*NAMES} < {key.rpartition("/")[2] for key in index(told)["key"]}
        expected = ["hidden", "hidden", "empty", "no_label"] + ["wrong_type"] * (contents == "read")
        assert sorted(rejects(told)["reason"]) == sorted(expected)

    @pytest.mark.parametrize("contents", ["read", "listed"])
    def test_comes_after_a_listing_and_before_one(self, s3: Bucket, source: str, tmp_path: Path, contents: str) -> None:
        """The inventory tells versions, of which a listing says nothing."""
        first = run(source, tmp_path / "1", contents=contents)
        listing = {"kind": "inventory", "manifest": report(s3, tmp_path, "CSV", listed(s3, VersionId="v7"))}
        s3.client.delete_object(Bucket=s3.name, Key="p/cats/0.png")  # the inventory is a day old
        s3.put("p/cats/new.png", pictures("x")["x/0.png"] + b"new")
        second = run(
            source, tmp_path / "2", listing=listing, contents=contents, previous=str(first.outputs["manifest"])
        )
        assert changes(second) == {}
        assert set(index(second)["version"]) == {"v7"}
        third = run(source, tmp_path / "3", contents=contents, previous=str(second.outputs["manifest"]))
        assert changes(third) == {"0.png": "deleted", "new.png": "added"}
        before = dict(index(first).select("key", "channel").iter_rows())
        after = dict(index(third).select("key", "channel").iter_rows())
        assert {key: after[key] for key in before if key in after} == {
            key: channel for key, channel in before.items() if key in after
        }

    def test_of_tables(self, s3: Bucket, tmp_path: Path) -> None:
        for key, content in {"a b%.csv": table(40), "é/100%.csv": table(20, start=40)}.items():
            s3.put(f"p/{key}", content.encode())
        given: dict[str, Any] = {"formats": ("csv",), "labels": {"kind": "column"}}
        listing = {"kind": "inventory", "manifest": report(s3, tmp_path, "Parquet", listed(s3))}
        told = run(s3.uri("p"), tmp_path / "told", listing=listing, **given)
        assert made(told) == made(run(s3.uri("p"), tmp_path / "asked", **given))
        s3.put("p/a b%.csv", table(40).replace("text 3,", "text x,").encode())
        with pytest.raises(DataError, match=r"a b%\.csv was changed after it was listed"):
            run(s3.uri("p"), tmp_path / "changed", listing=listing, **given)

    @pytest.mark.parametrize("etag", [True, False])
    def test_that_is_older_than_an_object(self, s3: Bucket, source: str, tmp_path: Path, etag: bool) -> None:
        rows = listed(s3)
        if not etag:
            rows = [{**one, "ETag": ""} for one in rows]
        listing = {"kind": "inventory", "manifest": report(s3, tmp_path, "CSV", rows)}
        s3.put("p/cats/0.png", b"another")
        s3.client.delete_object(Bucket=s3.name, Key="p/cats/1.png")
        told = run(source, tmp_path / "task", listing=listing)
        late = rejects(told).filter(pl.col("reason") == "changed")
        assert dict(late.select(pl.col("uri").str.split("/").list.last(), "reason").iter_rows()) == {
            "0.png": "changed", "1.png": "changed"
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("damage", "told"),
        [("flip", "1.csv.gz, of the inventory .* has the MD5"), ("cut", "has the MD5"), ("gone", "is at none of")],
    )
    def test_with_damaged_data_files_leaves_nothing(
        self, s3: Bucket, source: str, tmp_path: Path, damage: str, told: str
    ) -> None:
        place = report(s3, tmp_path, "CSV", listed(s3))
        bucket, key = f"{s3.name}-reports", "reports/photos/weekly/data/1.csv.gz"
        data = s3.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        broken = {"flip": data[:30] + bytes([data[30] ^ 1]) + data[31:], "cut": data[:-9], "gone": b""}[damage]
        s3.client.delete_object(Bucket=bucket, Key=key)
        if broken:
            s3.client.put_object(Bucket=bucket, Key=key, Body=broken)
        with pytest.raises(DataError, match=told):
            run(source, tmp_path / "task", listing={"kind": "inventory", "manifest": place})
        assert not (tmp_path / "task" / "outputs").exists()

    def test_keeps_no_copy_of_a_data_file_that_was_read(self, s3: Bucket, source: str, tmp_path: Path) -> None:
        place = report(s3, tmp_path, "CSV", listed(s3))
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        assert next(inventory_batches(source, place, scratch)).height > 40
        assert [path for path in scratch.rglob("*") if path.is_file()] == []


class TestKeys:
    def test_make_what_the_listing_makes(self, s3: Bucket, source: str, tmp_path: Path) -> None:
        rows = pl.DataFrame(listed(s3)).filter(pl.col("Key").str.starts_with("p/") & ~pl.col("Key").str.ends_with("/"))
        keys = tmp_path / "keys.csv"
        rows.select(
            uri=pl.lit(f"s3://{s3.name}/") + pl.col("Key"),
            size="Size",
            etag=pl.format('"{}"', "ETag"),
            modified="LastModifiedDate",
        ).write_csv(keys)
        s3.put("lists/keys.csv", keys.read_bytes())
        listing = {"kind": "keys", "path": s3.uri("lists/keys.csv"), "column": "uri"}
        told, asked = run(source, tmp_path / "told", listing=listing), run(source, tmp_path / "asked")
        assert made(told) == made(asked)
        assert told.metrics == asked.metrics

    def test_below_the_source(self, s3: Bucket, source: str, tmp_path: Path) -> None:
        asked = run(source, tmp_path / "asked")
        known = index(asked).filter(~pl.col("key").str.contains(r"^/|(^|/)\.+/"))
        keys = known["key"]
        (tmp_path / "keys.csv").write_text(pl.DataFrame({"key": keys.reverse()}).write_csv())
        told = run(source, tmp_path / "told", listing={"kind": "keys", "path": str(tmp_path / "keys.csv")})
        assert index(told)["key"].to_list() == keys.to_list()
        assert index(told)["content"].to_list() == known["content"].to_list()
