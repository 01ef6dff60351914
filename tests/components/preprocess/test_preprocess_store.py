"""Preprocess reads from a real S3 server, also one that misbehaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import pytest

from millrace.components.preprocess.spec import preprocess
from millrace.errors import UserError
from millrace.runtime.records import counts, read_images
from millrace.runtime.storage import read
from millrace.testing import run_component
from tests.components.preprocess.material import (
    Listed,
    make_shards,
    pictures,
    rejected,
    small,
)
from tests.conftest import Bucket
from tests.faults import SLOW_DOWN, Fault, Refusal, faulty_proxy


class TestStore:
    """A real S3 server."""

    def stored(self, s3: Bucket, rows: Sequence[Listed]) -> list[Listed]:
        moved = []
        for row in rows:
            name = unquote(row.uri.rpartition("/")[2])
            moved.append(row._replace(uri=s3.put(f"pictures/{name}", read(row.uri))))
        return moved

    def test_gives_the_records_that_a_folder_gives(self, tmp_path: Path, s3: Bucket) -> None:
        rows = pictures(tmp_path / "objects", 5)
        name = "train-00000-of-00001"
        made = []
        for place, listed in (("folder", rows), ("bucket", self.stored(s3, rows))):
            shards = make_shards(tmp_path / place / "in", {name: listed})
            ran = run_component(preprocess, small(), tmp_path / place, shards=shards)
            made.append(list(read_images(ran.outputs["records"] / f"{name}.tfrecord")))
            assert [record.uri for record in made[-1]] == [row.uri for row in listed]
        assert [(record.image, record.label) for record in made[0]] == [
            (record.image, record.label) for record in made[1]
        ]

    def test_may_throttle_and_drop_connections(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = self.stored(s3, pictures(tmp_path / "objects", 6))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        faults: list[Fault | None] = [SLOW_DOWN, None, "drop", None, "break_off", None]

        def choose(number: int, path: str) -> Fault | None:
            return faults[number] if number < len(faults) else None

        with faulty_proxy(s3.endpoint, choose) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            ran = run_component(preprocess, small(max_error_rate=0), tmp_path / "task", shards=shards)
        assert len(proxy.injected) == 3
        assert counts(ran.outputs["records"], "train")[0].records == 6

    def test_that_refuses_access_ends_the_task(
        self, tmp_path: Path, s3: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rows = self.stored(s3, pictures(tmp_path / "objects", 3))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        with faulty_proxy(s3.endpoint, lambda number, path: Refusal(403, "AccessDenied")) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(UserError):
                run_component(preprocess, small(max_error_rate=1), tmp_path / "task", shards=shards)

    def test_that_lost_an_object_rejects_it(self, tmp_path: Path, s3: Bucket) -> None:
        rows = self.stored(s3, pictures(tmp_path / "objects", 3))
        s3.client.delete_object(Bucket=s3.name, Key=rows[1].uri.removeprefix(s3.uri()))
        shards = make_shards(tmp_path / "in", {"train-00000-of-00001": rows})
        ran = run_component(preprocess, small(max_error_rate=0.5), tmp_path / "task", shards=shards)
        assert list(rejected(ran).values()) == ["missing"]
