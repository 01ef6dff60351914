from __future__ import annotations

import itertools
import os
import sys
import traceback
from pathlib import Path

import pytest

from millrace.errors import ConfigError, DataError, TransientError, UserError
from millrace.runtime.storage import Listed, Patience, list_objects, process_many, read
from tests.conftest import SECRET_KEY, Bucket
from tests.faults import SLOW_DOWN, Fault, Refusal, faulty_proxy

ODD_NAMES = (
    ".hidden",
    "50%.png",
    "a b.png",
    "a%20b.png",
    "a+b.png",
    "a..b",
    'double".png',
    "it's.png",
    "back\\slash.png",
    "cat#1",
    "e\u0301.png",
    "ü.png",
    "question?.png",
    "star*.png",
    "[x]{y}.png",
    "tilde~.png",
    "folder/deep/er/x.png",
    "folder.png",
    "folder-1/x.png",
)
QUICK = Patience(retries=3, seconds=5, stall_seconds=1)


def keys(source: str) -> list[str]:
    return [item.key for item in list_objects(source)]


def contents(source: str) -> dict[str, bytes]:
    return {item.key: read(item) for item in list_objects(source)}


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    for name in ODD_NAMES:
        file = tmp_path / "odd" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(f"content of {name}".encode())
    return tmp_path / "odd"


class TestFolders:
    def test_odd_names_are_listed_by_key_and_read_back(self, odd_folder: Path) -> None:
        assert keys(str(odd_folder)) == sorted(ODD_NAMES)
        assert contents(str(odd_folder)) == {name: f"content of {name}".encode() for name in ODD_NAMES}

    def test_names_that_are_not_unicode(self, tmp_path: Path) -> None:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.png")).write_bytes(b"coffee")
        (item,) = list_objects(str(tmp_path))
        assert item.key == "caf\\xe9.png"
        assert item.uri.endswith("/caf%E9.png")
        assert read(item.uri) == b"coffee"

    def test_newlines_in_names(self, tmp_path: Path) -> None:
        (tmp_path / "two\nlines.png").write_bytes(b"x")
        assert contents(str(tmp_path)) == {"two\nlines.png": b"x"}

    def test_links_are_followed_but_not_in_circles(self, tmp_path: Path) -> None:
        (tmp_path / "real" / "below").mkdir(parents=True)
        (tmp_path / "real" / "x.png").write_bytes(b"x")
        (tmp_path / "real" / "below" / "up").symlink_to(tmp_path / "real")
        (tmp_path / "real" / "self").symlink_to(tmp_path / "real" / "self")
        (tmp_path / "linked").symlink_to(tmp_path / "real")
        (tmp_path / "nothing").symlink_to(tmp_path / "missing")
        sizes = {item.key: item.size for item in list_objects(str(tmp_path))}
        assert sizes == {"linked/self": -1, "linked/x.png": 1, "nothing": -1, "real/self": -1, "real/x.png": 1}

    def test_relative_paths_and_file_uris(self, odd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(odd_folder.parent)
        assert list(list_objects("odd")) == list(list_objects(odd_folder.as_uri()))

    def test_what_is_not_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file or folder"):
            keys(str(tmp_path / "missing"))
        (tmp_path / "file").write_text("x")
        with pytest.raises(DataError, match="is a file"):
            keys(str(tmp_path / "file"))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "locked").mkdir(mode=0o000)
        with pytest.raises(UserError, match="may not be read"):
            keys(str(tmp_path))

    def test_changed_after_listing(self, tmp_path: Path) -> None:
        for name in ("gone", "longer", "touched"):
            (tmp_path / name).write_bytes(b"x")
        gone, longer, touched = list_objects(str(tmp_path))
        (tmp_path / "gone").unlink()
        (tmp_path / "longer").write_bytes(b"xx")
        os.utime(tmp_path / "touched", (1, 1))
        with pytest.raises(DataError, match="any more"):
            read(gone)
        for item in (longer, touched):
            with pytest.raises(DataError, match="was changed"):
                read(item)


class TestUris:
    @pytest.mark.parametrize(
        ("source", "told"),
        [
            ("s3://", "names no bucket"),
            ("s3:///key", "names no bucket"),
            ("ftp://host/x", "scheme 'ftp' is unknown"),
            ("file://host/x", "not an absolute file URI"),
        ],
    )
    def test_what_is_refused(self, source: str, told: str) -> None:
        with pytest.raises(ConfigError, match=told):
            keys(source)


class TestManyObjects:
    def test_order_and_errors_in_their_places(self, odd_folder: Path) -> None:
        listed = list(list_objects(str(odd_folder)))
        missing = (odd_folder / "missing").as_uri()
        wanted: list[str | Listed] = [listed[3], missing, listed[0].uri]
        answers = list(process_many(wanted, bytes, concurrency=2))
        assert [uri for uri, _ in answers] == [listed[3].uri, missing, listed[0].uri]
        assert answers[0][1] == read(listed[3])
        assert isinstance(answers[1][1], DataError)
        assert answers[2][1] == read(listed[0])

    def test_reads_ahead_no_further_than_allowed(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"x")
        numbers = itertools.count()
        endless = ((tmp_path / "x").as_uri() for _ in numbers)
        answers = process_many(endless, bytes, concurrency=4)
        for _ in range(10):
            next(answers)
        assert next(numbers) <= 10 + 4

    def test_bytes_in_flight_are_bounded_by_listed_sizes(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"x")
        (item,) = list_objects(str(tmp_path))
        huge = item._replace(size=300 << 20)
        numbers = iter(range(5))
        next(process_many((huge for _ in numbers), len, concurrency=4))
        assert next(numbers) == 2

    def test_errors_of_the_function_are_handed_over(self, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(b"not a number")
        ((_, answer),) = process_many([str(tmp_path / "x")], int)
        assert isinstance(answer, ValueError)


class TestS3:
    def test_odd_names_are_listed_by_key_and_read_back(self, s3: Bucket, odd_folder: Path) -> None:
        source = s3.upload(odd_folder, "some/prefix")
        s3.put("some/prefix-not/x.png", b"of another prefix")
        assert keys(source) == sorted(ODD_NAMES)
        assert keys(source + "/") == sorted(ODD_NAMES)
        assert contents(source) == contents(str(odd_folder))

    @pytest.mark.parametrize("fault", [None, "break_off"])
    def test_a_whole_bucket_of_many_pages(
        self, s3: Bucket, fault: Fault | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = [f"{number:05d}" for number in range(120)]
        for key in wanted:
            s3.put(key, b"x")
        with faulty_proxy(s3.endpoint, lambda number, path: fault if number % 3 == 1 else None, page=50) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert keys(f"s3://{s3.name}") == wanted
        assert proxy.requests >= 3

    def test_folder_markers_are_left_out(self, s3: Bucket) -> None:
        s3.put("p/", b"")
        s3.put("p/cats/", b"")
        s3.put("p/cats/1.png", b"x")
        s3.put("p/empty.png", b"")
        assert keys(s3.uri("p")) == ["cats/1.png", "empty.png"]

    def test_listing_tells_size_and_etag(self, s3: Bucket) -> None:
        s3.put("p/x", b"12345")
        (item,) = list_objects(s3.uri("p"))
        assert (item.uri, item.size) == (s3.uri("p/x"), 5)
        assert item.etag == s3.client.head_object(Bucket=s3.name, Key="p/x")["ETag"]

    def test_missing_object_and_bucket(self, s3: Bucket) -> None:
        with pytest.raises(DataError, match="no such object"):
            read(s3.uri("missing"))
        for action in (read, keys):
            with pytest.raises(DataError, match="no bucket 'nobody-has-this'"):
                action("s3://nobody-has-this/x")

    def test_changed_after_listing(self, s3: Bucket) -> None:
        s3.put("p/gone", b"x")
        s3.put("p/other", b"x")
        gone, other = list_objects(s3.uri("p"))
        s3.client.delete_object(Bucket=s3.name, Key="p/gone")
        s3.put("p/other", b"y")
        with pytest.raises(DataError, match="no such object"):
            read(gone)
        with pytest.raises(DataError, match="was changed after it was listed"):
            read(other)

    def test_keys_that_no_path_can_have(self, s3: Bucket) -> None:
        odd = {f"p/{key}": key.encode() for key in ("/1.png", "cats//1.png", "cats/./2.png", "a\tb.png", "z/../3.png")}
        for key, data in {**odd, "p/cats/4.png": b"x", "p/": b"", "p/cats/": b"", "p/cats//": b""}.items():
            s3.put(key, data)
        assert keys(s3.uri("p")) == sorted([*(key[2:] for key in odd), "cats/4.png"])
        assert contents(s3.uri("p")) == {key[2:]: data for key, data in odd.items()} | {"cats/4.png": b"x"}
        assert contents(s3.uri("p//")) == contents(s3.uri("p"))
        assert contents(s3.uri("p/cats/")) == {"/1.png": b"cats//1.png", "./2.png": b"cats/./2.png", "4.png": b"x"}

    def test_leading_slashes(self, s3: Bucket) -> None:
        wanted = {"/1.png": b"of the slash", "1.png": b"without", "/cats/2.png": b"2", "//3.png": b"3", "!.png": b"4"}
        for key, data in wanted.items():
            s3.put(key, data)
        assert contents(f"s3://{s3.name}") == wanted
        assert keys(f"s3://{s3.name}") == sorted(wanted)
        assert contents(f"s3://{s3.name}//cats") == {"2.png": b"2"}
        gone, *_ = list_objects(f"s3://{s3.name}//cats")
        s3.put("/cats/2.png", b"x")
        with pytest.raises(DataError, match="was changed after it was listed"):
            read(gone)
        with pytest.raises(DataError, match="no such object"):
            read(f"s3://{s3.name}//missing.png")

    def test_such_keys_without_boto3(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "boto3", None)
        s3.put("p/cats//1.png", b"x")
        for action in (keys, read):
            with pytest.raises(DataError, match="pip install boto3, or rename"):
                action(s3.uri("p//cats"))
        with pytest.raises(DataError, match="pip install boto3, or rename"):
            keys(s3.uri("p"))


class TestGoogle:
    """The XML interface of Google Cloud Storage is S3's: obstore's Google client talks to the same server."""

    @pytest.fixture(autouse=True)
    def environment(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_BASE_URL", s3.endpoint)
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")

    def test_list_and_read(self, s3: Bucket) -> None:
        for key in ("p/a b%.png", "p/é/1.png", "q/x.png"):
            s3.client.put_object(Bucket=s3.name, Key=key, Body=key.encode(), ACL="public-read")
        found = contents(f"gs://{s3.name}/p")
        assert found == {"a b%.png": b"p/a b%.png", "é/1.png": "p/é/1.png".encode()}

    def test_what_is_missing_or_private(self, s3: Bucket) -> None:
        s3.put("private", b"x")
        with pytest.raises(DataError, match="no bucket"):
            keys("gs://nobody-has-this/x")
        with pytest.raises(UserError, match="Storage Object Viewer"):
            read(f"gs://{s3.name}/private")


class TestFaults:
    @pytest.mark.parametrize("fault", [SLOW_DOWN, "drop", "break_off", "short", "slow", "stall"])
    def test_every_other_request_fails_and_all_arrives(
        self, s3: Bucket, fault: Fault, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted = {f"p/{number}": os.urandom(5000) for number in range(4)}
        for key, data in wanted.items():
            s3.put(key, data)
        with faulty_proxy(s3.endpoint, lambda number, path: fault if number % 2 == 0 else None) as faults:
            monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
            if fault == "short":  # a listing cut short with a length that says so is not XML
                monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
            listed = list(list_objects(s3.uri("p"), patience=QUICK))
            monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
            answers = dict(process_many(listed, bytes, concurrency=2, patience=QUICK))
        assert answers == {s3.uri(key): data for key, data in wanted.items()}
        assert faults.injected

    @pytest.mark.parametrize("fault", [SLOW_DOWN, "drop", "break_off", "short"])
    def test_what_never_ends_is_transient(self, s3: Bucket, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
        s3.put("p/x", b"12345678")
        (item,) = list_objects(s3.uri("p"))
        with faulty_proxy(s3.endpoint, lambda number, path: fault) as faults:
            monkeypatch.setenv("AWS_ENDPOINT_URL", faults.url)
            with pytest.raises(TransientError, match=f"s3://{s3.name}/p/x"):
                read(item, patience=QUICK)
        assert len(faults.injected) > 1

    def test_no_server_at_all(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        with faulty_proxy(s3.endpoint, lambda number, path: None) as closed:
            pass
        monkeypatch.setenv("AWS_ENDPOINT_URL", closed.url)
        for action in (read, list_objects):
            with pytest.raises(TransientError, match="out of reach"):
                list(action(s3.uri("p"), patience=QUICK))


class TestCredentials:
    @pytest.mark.parametrize(
        ("status", "code", "told"),
        [
            (403, "AccessDenied", "s3:ListBucket"),
            (403, "InvalidAccessKeyId", "check AWS_ACCESS_KEY_ID"),
            (403, "SignatureDoesNotMatch", "check AWS_SECRET_ACCESS_KEY"),
            (400, "ExpiredToken", "expired"),
            (301, "PermanentRedirect", "set AWS_REGION"),
        ],
    )
    def test_refusals_say_what_to_do_and_no_secret(
        self,
        s3: Bucket,
        monkeypatch: pytest.MonkeyPatch,
        status: int,
        code: str,
        told: str,
    ) -> None:
        with faulty_proxy(s3.endpoint, lambda number, path: Refusal(status, code)) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            for action in (read, keys):
                with pytest.raises(UserError, match=told) as raised:
                    action(s3.uri("p"))
                shown = "".join(traceback.format_exception(raised.value))
                assert SECRET_KEY not in shown
                assert "test-access-key" not in shown
        assert any("test-access-key" in item for item in proxy.authorizations)  # it could have leaked

    def test_half_of_a_key(self, s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(UserError, match="no credentials were found: set AWS_ACCESS_KEY_ID"):
            read(s3.uri("x"))

    def test_a_profile_is_used(self, s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        s3.put("x", b"x")
        file = tmp_path / "credentials"
        file.write_text(f"[mine]\naws_access_key_id = from-a-file\naws_secret_access_key = {SECRET_KEY}\n")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        monkeypatch.setenv("AWS_PROFILE", "mine")
        with faulty_proxy(s3.endpoint, lambda number, path: None) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            assert read(s3.uri("x")) == b"x"
        assert all("Credential=from-a-file/" in item for item in proxy.authorizations)
