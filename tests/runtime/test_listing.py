"""A bucket is listed in many places at a time: what is told must not depend on how it was divided."""

from __future__ import annotations

import os
import random
from collections.abc import Generator
from pathlib import Path

import polars as pl
import pytest

from millrace.errors import DataError, TransientError, UserError, is_disk_full
from millrace.runtime import buckets, listing, storage
from millrace.runtime.storage import Listed, Patience, list_batches, process_many, read
from tests.conftest import SECRET_KEY, Bucket
from tests.faults import SLOW_DOWN, Fault, Refusal, faulty_proxy

PAGE = 5
QUICK = Patience(retries=4, seconds=10, stall_seconds=1)
NAMES = ("a", "a-", "a-1", "a b", "aa", "b", "b.c", "é", "z%", "0", "~", "🐈")


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 5 objects were as many as 1000."""
    monkeypatch.setattr(buckets, "_PAGE", PAGE)
    monkeypatch.setattr(buckets, "_PAGE_AFTER_FAILURE", 1)
    monkeypatch.setattr(listing, "_PIECE", 15)
    monkeypatch.setattr(listing, "_PATIENCE", 4)
    monkeypatch.setattr(listing, "_SMALL", 1)


def rows(source: str, *, concurrency: int = 8, patience: Patience = QUICK) -> pl.DataFrame:
    return pl.concat(list_batches(source, concurrency=concurrency, patience=patience))


def fill(bucket: Bucket, seed: int, count: int) -> list[str]:
    """Objects in folders of folders, and markers of some folders; gives the keys of the objects in order."""
    chosen = random.Random(seed)
    made = {"/".join(chosen.choices(NAMES, k=chosen.choice((1, 2, 2, 3, 3, 3)))) + ".png" for _ in range(count)}
    for key in made:
        bucket.put(f"p/{key}", key.encode())
    for folder in {key.rpartition("/")[0] for key in made if "/" in key and chosen.random() < 0.5}:
        bucket.put(f"p/{folder}/", b"")
    return sorted(made)


class TestOrder:
    @pytest.mark.parametrize("seed", range(3))
    def test_any_tree_is_told_whole_and_in_order(self, s3: Bucket, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = fill(s3, seed, 70)
        with faulty_proxy(s3.endpoint, lambda number, path: None, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            for concurrency in (1, 12):
                found = rows(s3.uri("p"), concurrency=concurrency)
                assert found["key"].to_list() == wanted
                assert found["uri"].to_list() == [s3.uri(f"p/{key}") for key in wanted]
                assert found["size"].to_list() == [len(key.encode()) for key in wanted]

    @pytest.mark.parametrize("batch", [1, 2, 7, 50_000])
    def test_batches_have_no_more_rows_than_said_even_of_empty_objects(
        self, s3: Bucket, batch: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "_BATCH", batch)
        wanted = [f"{number:02}" for number in range(23)]
        for key in wanted:
            s3.put(f"p/{key}", b"" if key < "15" else b"x")
        with faulty_proxy(s3.endpoint, lambda number, path: None, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            batches = list(list_batches(s3.uri("p"), patience=QUICK))
        assert max(one.height for one in batches) <= batch
        assert pl.concat(batches)["key"].to_list() == wanted

    @pytest.mark.parametrize("batch", [1, 2, 3, 4, 5])
    def test_a_marker_of_an_empty_folder_may_begin_a_batch(
        self, s3: Bucket, batch: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "_BATCH", batch)
        for key in ("a-", "a-b-c", "a-b/", "a/", "b-", "b/", "b0"):
            s3.put(f"p/{key}", b"" if key.endswith("/") else b"x")
        with faulty_proxy(s3.endpoint, lambda number, path: None, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert rows(s3.uri("p"))["key"].to_list() == ["a-", "a-b-c", "b-", "b0"]

    @pytest.mark.parametrize("seed", range(3))
    def test_empty_objects_and_markers_with_requests_that_fail(
        self, s3: Bucket, seed: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(storage, "_BATCH", 3 + seed)
        wanted = fill(s3, seed, 50)
        chosen = random.Random(seed)
        for key in chosen.sample(wanted, 35):
            s3.put(f"p/{key}", b"")
        tops = {key.partition("/")[0] for key in wanted if "/" in key}
        for top in tops:
            s3.put(f"p/{top}-/", b"")  # behind the next one, and without its slash before it
            s3.put(f"p/{top}-,", b"x")
        wanted = sorted({*wanted, *(f"{top}-," for top in tops)})
        with faulty_proxy(
            s3.endpoint, lambda number, path: "break_off" if number % 3 == 1 else None, page=PAGE
        ) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            found = rows(s3.uri("p"))["key"].to_list()
        assert found == wanted

    def test_nothing_below_a_prefix(self, s3: Bucket) -> None:
        assert list(list_batches(s3.uri("nothing"))) == []

    def test_a_listing_may_be_left(self, s3: Bucket) -> None:
        fill(s3, 1, 30)
        batches = list_batches(s3.uri("p"))
        assert isinstance(batches, Generator)
        next(batches)
        batches.close()

    def test_only_so_much_is_read_ahead(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "_AHEAD", 20)
        for folder in "abcdefgh":
            for number in range(12):
                s3.put(f"p/{folder}/{number:02}", b"x")
        with faulty_proxy(s3.endpoint, lambda number, path: None, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            pages = listing.pages_in_order("s3", s3.name, "p", QUICK, 4)
            first = next(pages)
            ahead = proxy.requests
            rest = sum(page.height for page in pages)
        assert first.height + rest == 96
        assert ahead < proxy.requests


class TestAtOnce:
    def test_folders_are_listed_at_the_same_time(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = [f"{outer}/{inner}/{number}" for outer in "ab" for inner in "stuv" for number in range(10)]
        for key in wanted:
            s3.put(f"p/{key}", b"x")
        with faulty_proxy(s3.endpoint, lambda number, path: "slow", page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert rows(s3.uri("p"), concurrency=4)["key"].to_list() == wanted
        assert 3 <= proxy.at_once <= 2 * 4  # with what is asked for folders

    def test_one_folder_takes_no_more_requests_than_pages(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(60):
            s3.put(f"p/{number:03}", b"x")
        with faulty_proxy(s3.endpoint, lambda number, path: None, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert rows(s3.uri("p")).height == 60
        assert proxy.requests <= 60 // PAGE + 1 + 2 * 4 + 1  # pages, and what asks for folders until it is given up


class TestFaults:
    @pytest.mark.parametrize("fault", [SLOW_DOWN, "drop", "break_off", "stall"])
    def test_nothing_is_lost_or_doubled(self, s3: Bucket, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = fill(s3, 7, 60)

        def choose(number: int, path: str) -> Fault | None:
            return fault if number % (10 if fault == "stall" else 3) == 1 else None

        with faulty_proxy(s3.endpoint, choose, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert rows(s3.uri("p"))["key"].to_list() == wanted
        assert proxy.injected

    @pytest.mark.parametrize("fault", [SLOW_DOWN, "drop", "break_off"])
    def test_what_never_ends_is_told(self, s3: Bucket, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
        fill(s3, 7, 60)
        with faulty_proxy(s3.endpoint, lambda number, path: fault if number > 4 else None, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(TransientError, match=f"s3://{s3.name}/p"):
                rows(s3.uri("p"), patience=Patience(retries=2, seconds=3, stall_seconds=1))

    def test_credentials_that_expire_half_way(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = fill(s3, 3, 40)
        expired = Refusal(400, "ExpiredToken")

        def choose(number: int, path: str) -> Fault | None:
            return expired if renewed not in signatures[-1:] and number >= 6 else None

        renewed, signatures = "renewed-key", ["test-access-key"]
        with faulty_proxy(s3.endpoint, choose, page=PAGE) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            with pytest.raises(UserError, match=r"the credentials have expired; renew them"):
                rows(s3.uri("p"))
            uris = [s3.uri(f"p/{key}") for key in wanted]
            refused = [answer for _, answer in process_many(uris[:2], bytes, patience=QUICK)]
            assert all(isinstance(answer, UserError) for answer in refused)
            assert SECRET_KEY not in str(refused)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", renewed)  # in the same process, or by starting it again
            signatures.append(renewed)
            assert rows(s3.uri("p"))["key"].to_list() == wanted
            assert read(uris[0]) == wanted[0].encode()
        assert any(renewed in item for item in proxy.authorizations)

    def test_a_body_cut_short_by_a_server_that_says_so(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        data = os.urandom(5000)
        s3.put("p/x", data)
        (row,) = rows(s3.uri("p")).iter_rows()
        listed = Listed(*row)
        with faulty_proxy(s3.endpoint, lambda number, path: None if number else "short") as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert read(listed, patience=QUICK) == data
        assert proxy.requests == 2

    def test_an_object_that_is_gone_or_longer_than_listed(self, s3: Bucket) -> None:
        s3.put("p/gone", b"12345")
        s3.put("p/longer", b"12345")
        gone, longer = (Listed(*row) for row in rows(s3.uri("p")).iter_rows())
        s3.client.delete_object(Bucket=s3.name, Key="p/gone")
        s3.put("p/longer", b"1234567")
        answers = [answer for _, answer in process_many([gone, longer], bytes, patience=QUICK)]
        assert all(isinstance(answer, DataError) for answer in answers)
        assert "no such object" in str(answers[0])
        assert "was changed after it was listed" in str(answers[1])


class TestFullDisk:
    def test_a_copy_tells_that_the_disk_is_full(self, s3: Bucket) -> None:
        s3.put("x", os.urandom(100_000))
        with pytest.raises(OSError, match="No space left") as raised:
            buckets.copy_from_bucket("s3", s3.name, "x", Path("/dev/full"), QUICK)
        assert is_disk_full(raised.value)
