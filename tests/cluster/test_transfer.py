"""Artifacts between a bucket and this machine, against a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from millrace.errors import ConfigError, DataError, UserError
from millrace.runtime.cluster.transfer import check_uri, download, read_text, upload, write_text
from tests.conftest import Bucket


def test_a_folder_goes_there_and_back_and_replaces_what_was_left(s3: Bucket, tmp_path: Path) -> None:
    s3.put("root/model/shard-9.bin", b"of an attempt that was killed")
    s3.put("root/model2/other.bin", b"of somebody else")
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "wörter #1.txt").write_text("a")
    (folder / "large.bin").write_bytes(bytes(range(256)) * 100_000)
    upload(folder, s3.uri("root/model"))
    download(s3.uri("root/model"), tmp_path / "back", single=False)
    back = {
        file.relative_to(tmp_path / "back").as_posix(): file.read_bytes() for file in (tmp_path / "back").rglob("*.*")
    }
    assert back == {"deep/wörter #1.txt": b"a", "large.bin": bytes(range(256)) * 100_000}
    assert read_text(s3.uri("root/model2/other.bin")) == "of somebody else"


def test_a_single_file(s3: Bucket, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>")
    upload(tmp_path / "report.html", s3.uri("root/report"))
    download(s3.uri("root/report"), tmp_path / "again.html", single=True)
    assert (tmp_path / "again.html").read_text() == "<p>"
    with pytest.raises(DataError, match="there is no such object"):
        download(s3.uri("root/none"), tmp_path / "none", single=True)


def test_what_is_not_there(s3: Bucket, tmp_path: Path) -> None:
    download(s3.uri("nothing"), tmp_path / "empty", single=False)
    assert list((tmp_path / "empty").iterdir()) == []
    assert read_text(s3.uri("nothing.json")) is None
    with pytest.raises(DataError, match="there is no bucket 'none-of-this'"):
        write_text("{}", "s3://none-of-this/x")
    with pytest.raises(UserError, match="no bucket"):
        download("s3://none-of-this/x", tmp_path / "x", single=False)


def test_a_full_disk_is_no_trouble_of_the_store(s3: Bucket) -> None:
    uri = s3.put("words.bin", b"0" * 1000)
    with pytest.raises(OSError, match="No space left"):
        download(uri, Path("/dev/full"), single=True)


def test_minio_is_s3_at_an_endpoint(s3: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = s3.put("words.txt", b"to be").replace("s3://", "minio://")
    check_uri(uri, "train.words")
    assert read_text(uri) == "to be"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    with pytest.raises(ConfigError, match=r"train\.words: minio://.*AWS_ENDPOINT_URL"):
        check_uri(uri, "train.words")
