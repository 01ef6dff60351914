from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, quote_plus

import polars as pl
import pytest

from millrace.data import listings
from millrace.data.listings import inventory_batches, keys_batches
from millrace.errors import ConfigError, DataError
from millrace.runtime.storage import list_batches
from tests.conftest import Bucket

SOURCE = "s3://photos/some/prefix"
FIELDS = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
KEYS = ("cats/1.png", "cats/a b+c%.png", "dogs/ü.png", "dogs-2/x.png", 'q"uote,s.png')
WHEN = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
NANOSECONDS = int(WHEN.timestamp()) * 10**9


def csv_part(rows: list[dict[str, object]], encode: Callable[[str], str] = quote) -> bytes:
    """As S3 writes it: every value in quotes, no header, keys as in URLs."""
    lines = []
    for row in rows:
        values = [row["Bucket"], encode(str(row["Key"])), *(row[name] for name in FIELDS.split(", ")[2:])]
        lines.append(",".join(f'"{value}"' for value in values))
    return gzip.compress("\n".join(lines).encode())


def parquet_part(rows: list[dict[str, object]], path: Path) -> bytes:
    names = {
        "Bucket": "bucket", "Key": "key", "VersionId": "version_id", "IsLatest": "is_latest",
        "IsDeleteMarker": "is_delete_marker", "Size": "size", "LastModifiedDate": "last_modified_date",
        "ETag": "e_tag", "StorageClass": "storage_class",
    }  # fmt: skip
    frame = pl.DataFrame([{names[name]: value for name, value in row.items()} for row in rows])
    frame = frame.with_columns(
        pl.col("is_latest", "is_delete_marker") == "true",
        pl.col("last_modified_date").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="ms"),
    )
    frame.write_parquet(path)
    return path.read_bytes()


def row(key: str, **changed: object) -> dict[str, object]:
    values: dict[str, object] = {
        "Bucket": "photos", "Key": f"some/prefix/{key}", "VersionId": "v1", "IsLatest": "true",
        "IsDeleteMarker": "false", "Size": 5, "LastModifiedDate": "2026-01-31T12:00:05.000Z", "ETag": "abc",
        "StorageClass": "STANDARD",
    }  # fmt: skip
    return values | changed


def write_report(folder: Path, parts: list[bytes], form: str = "CSV", ending: str = "csv.gz", **changed: object) -> str:
    """The folders of a report: DESTINATION/BUCKET/NAME/data and DESTINATION/BUCKET/NAME/TIME/manifest.json."""
    base = folder / "photos" / "weekly"
    (base / "data").mkdir(parents=True)
    (base / "2026-02-01T01-00Z").mkdir()
    files = []
    for number, part in enumerate(parts):
        key = f"reports/photos/weekly/data/{number}.{ending}"
        (base / "data" / f"{number}.{ending}").write_bytes(part)
        files.append(
            {"key": key, "size": len(part), "MD5checksum": hashlib.md5(part, usedforsecurity=False).hexdigest()}
        )
    manifest = base / "2026-02-01T01-00Z" / "manifest.json"
    content = {
        "sourceBucket": "photos", "destinationBucket": "arn:aws:s3:::reports", "version": "2016-11-30",
        "creationTimestamp": "1769907600000", "fileFormat": form, "fileSchema": FIELDS, "files": files,
    }  # fmt: skip
    manifest.write_text(json.dumps(content | changed))
    return str(manifest)


def listed(batches: Iterable[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(batches)


class TestInventory:
    @pytest.mark.parametrize("form", ["CSV, %20", "CSV, +", "Parquet"])
    def test_both_formats_tell_what_a_listing_tells(self, tmp_path: Path, form: str) -> None:
        rows = [row(key) for key in KEYS]
        rows += [
            row("", Size=0),  # the folder's marker
            row("dogs/", Size=0),
            row("old.png", VersionId="v0", IsLatest="false"),
            row("deleted.png", IsDeleteMarker="true"),
            row("x", Key="some/prefix-not/x.png"),
        ]
        random.Random(1).shuffle(rows)
        halves = (rows[:5], rows[5:])
        if form == "Parquet":
            parts = [parquet_part(half, tmp_path / "part.parquet") for half in halves]
            manifest = write_report(tmp_path, parts, "Parquet", "parquet", fileSchema="message s3.inventory {}")
        else:
            parts = [csv_part(half, quote_plus if form.endswith("+") else quote) for half in halves]
            manifest = write_report(tmp_path, parts)
        found = listed(inventory_batches(SOURCE, manifest))
        assert found["key"].to_list() == sorted(KEYS)
        assert found["uri"].to_list() == [f"{SOURCE}/{key}" for key in sorted(KEYS)]
        assert found.drop("uri", "key").unique().rows() == [(5, NANOSECONDS, '"abc"', "v1")]
        assert dict(found.schema) == listings._SCHEMA

    def test_the_least_that_a_report_can_have(self, tmp_path: Path) -> None:
        part = gzip.compress(b'"photos","x/1.png"\n"photos","0.png"')
        manifest = write_report(tmp_path, [part], fileSchema="Bucket, Key")
        found = listed(inventory_batches("s3://photos", manifest))
        assert found["key"].to_list() == ["0.png", "x/1.png"]
        assert found.drop("uri", "key").unique().rows() == [(None, None, None, None)]

    def test_a_report_where_the_store_puts_it_lists_as_the_store_does(self, s3: Bucket, tmp_path: Path) -> None:
        for key in KEYS:
            s3.put(f"some/prefix/{key}", key.encode())
        told = s3.client.list_objects_v2(Bucket=s3.name)["Contents"]
        rows = [
            row(
                "",
                Bucket=s3.name,
                Key=item["Key"],
                VersionId="",
                Size=item["Size"],
                ETag=item["ETag"].strip('"'),
                LastModifiedDate=item["LastModified"].strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            )
            for item in told
        ]
        manifest = Path(write_report(tmp_path, [csv_part(rows)], sourceBucket=s3.name))
        s3.put("reports/photos/weekly/data/0.csv.gz", (manifest.parents[1] / "data" / "0.csv.gz").read_bytes())
        s3.put("reports/photos/weekly/2026-02-01T01-00Z/manifest.json", manifest.read_bytes())
        report = s3.uri("reports/photos/weekly/2026-02-01T01-00Z/manifest.json")
        source = s3.uri("some/prefix")
        assert listed(inventory_batches(source, report)).equals(listed(list_batches(source)))

    def test_more_rows_than_are_sorted_at_a_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listings, "_SORTED", 2000)
        monkeypatch.setattr(listings, "_BATCH", 700)
        keys = [f"{number:05}.png" for number in range(9000)]
        shuffled = random.Random(2).sample(keys, len(keys)) + keys[:50]  # some are there twice
        parts = [csv_part([row(key) for key in shuffled[start::3]]) for start in range(3)]
        batches = list(inventory_batches(SOURCE, write_report(tmp_path, parts)))
        assert max(batch.height for batch in batches) <= 700
        assert listed(batches)["key"].to_list() == keys

    def test_a_part_without_rows(self, tmp_path: Path) -> None:
        manifest = write_report(tmp_path, [csv_part([]), csv_part([row(key) for key in KEYS])])
        assert sorted(listed(inventory_batches(SOURCE, manifest))["key"]) == sorted(KEYS)

    def test_what_is_refused(self, tmp_path: Path) -> None:
        whole = csv_part([row(key) for key in KEYS])
        manifest = write_report(tmp_path / "whole", [whole])
        with pytest.raises(ConfigError, match="not in S3"):
            listed(inventory_batches(str(tmp_path), manifest))
        with pytest.raises(DataError, match="inventory of the bucket 'photos', the source is s3://others/x"):
            listed(inventory_batches("s3://others/x", manifest))
        orc = write_report(tmp_path / "orc", [b"ORC"], "ORC", "orc")
        with pytest.raises(DataError, match="in ORC; CSV and Parquet are read"):
            listed(inventory_batches(SOURCE, orc))
        nothing = tmp_path / "manifest.json"
        nothing.write_text('{"entries": []}')
        with pytest.raises(DataError, match=r"no manifest\.json of an S3 Inventory"):
            listed(inventory_batches(SOURCE, str(nothing)))

    @pytest.mark.parametrize(
        ("damage", "told"), [("flip", "has the MD5"), ("cut", "has the MD5"), ("gone", "is at none")]
    )
    def test_damaged_data_files(self, tmp_path: Path, damage: str, told: str) -> None:
        manifest = Path(write_report(tmp_path, [csv_part([row(key) for key in KEYS])]))
        data = manifest.parents[1] / "data" / "0.csv.gz"
        content = bytearray(data.read_bytes())
        content[20] ^= 1
        if damage == "gone":
            data.unlink()
        else:
            data.write_bytes(content if damage == "flip" else data.read_bytes()[:-9])
        with pytest.raises(DataError, match=told):
            listed(inventory_batches(SOURCE, str(manifest)))

    def test_damaged_parquet_is_told_by_its_name(self, tmp_path: Path) -> None:
        part = parquet_part([row(key) for key in KEYS], tmp_path / "part.parquet")
        for number, wrong in enumerate((part[:-20], part[:4] + b"\xff" * 800 + part[804:])):
            manifest = write_report(tmp_path / f"{number}", [wrong], "Parquet", "parquet")
            with pytest.raises(DataError, match=r"data/0\.parquet, of the inventory .* can't be read as parquet: "):
                listed(inventory_batches(SOURCE, manifest))

    def test_files_cut_off_before_the_report_was_written(self, tmp_path: Path) -> None:
        manifest = write_report(tmp_path, [csv_part([row(key) for key in KEYS])[:-9]])
        with pytest.raises(DataError, match="can't be unpacked"):
            listed(inventory_batches(SOURCE, manifest))


class TestKeys:
    def test_keys_and_uris_in_any_order(self, tmp_path: Path) -> None:
        table = tmp_path / "keys.csv"
        table.write_text(
            "key,size,etag,modified\n"
            'b/2.png,7,"""e2""",2026-01-31T12:00:05Z\n'
            f"{SOURCE}/a.png,,,\n"
            f"b/2.png,7,,\n"
            f"é x%.png,3,,{NANOSECONDS}\n"
        )
        found = listed(keys_batches(SOURCE, str(table), "key"))
        assert found.rows() == [
            (f"{SOURCE}/a.png", "a.png", None, None, None, None),
            (f"{SOURCE}/b/2.png", "b/2.png", 7, NANOSECONDS, '"e2"', None),
            (f"{SOURCE}/é x%.png", "é x%.png", 3, NANOSECONDS, None, None),
        ]

    def test_files_of_a_folder_are_as_a_listing_has_them(self, tmp_path: Path) -> None:
        folder = tmp_path / "pictures"
        for name in ("b b.png", "a%/é.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(name.encode())
        table = tmp_path / "keys.csv"
        table.write_text(f"name\nb b.png\na%/é.png\nmissing.png\n{(folder / 'b b.png').as_uri()}\n")
        found = listed(keys_batches(str(folder), str(table), "name"))
        whole = found.filter(pl.col("key") != "missing.png")
        assert whole.equals(listed(list_batches(str(folder))))
        assert found.filter(pl.col("key") == "missing.png")["size"].to_list() == [-1]

    @pytest.mark.parametrize(
        ("line", "told"),
        [
            ("s3://others/x.png", "'s3://others/x.png', which is not below"),
            ("a/../../x.png", "which is not below"),
            ("/x.png", "which is not below"),
            ('""', "an empty key"),
        ],
    )
    def test_keys_elsewhere(self, tmp_path: Path, line: str, told: str) -> None:
        table = tmp_path / "keys.csv"
        table.write_text(f"key,other\na.png,1\n{line},1\n")
        with pytest.raises(DataError, match=told):
            listed(keys_batches(SOURCE, str(table), "key"))

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            ("name\nx.png\n", "no column 'key'"),
            ("key,size\nx.png,large\n", "'large' in column 'size'"),
            ("key,size\nx.png,-1\n", "'-1' in column 'size'"),
            ("key,modified\nx.png,yesterday\n", "'yesterday' in column 'modified'"),
            ("", "empty"),
        ],
    )
    def test_wrong_tables(self, tmp_path: Path, content: str, told: str) -> None:
        (tmp_path / "keys.csv").write_text(content)
        with pytest.raises(DataError, match=told):
            listed(keys_batches(SOURCE, str(tmp_path / "keys.csv"), "key"))
