"""Archives of earlier trainings, among them some that nobody should unpack."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from millrace.errors import DataError
from millrace.runtime.sagemaker.archives import unpack
from tests.runtime.sagemaker.layout import files


def packed(path: Path, *members: tuple[str, bytes | str]) -> Path:
    """An archive of files (bytes) and links (text)."""
    with tarfile.open(path, "w:gz") as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                opened.addfile(info)
            else:
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
    return path


def refused(archive: Path, told: str, **bounds: int) -> None:
    folder = archive.parent / "into" / "folder"
    with pytest.raises(DataError, match=told):
        unpack(archive, folder, **bounds)
    outside = set(archive.parent.rglob("*")) - {archive, folder, folder.parent, *folder.rglob("*")}
    assert outside == set()


def test_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "made" / "deep").mkdir(parents=True)
    (tmp_path / "made" / "deep" / "a").write_text("a")
    (tmp_path / "made" / ".hidden").write_text("h")
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as opened:
        opened.add(tmp_path / "made", ".")
    unpack(tmp_path / "model.tar.gz", tmp_path / "out")
    assert files(tmp_path / "out") == {".hidden": "h", "deep/a": "a"}


@pytest.mark.parametrize("name", ["../out", "a/../../../out", "/../../out", "/etc/x"])
def test_no_path_leads_out(tmp_path: Path, name: str) -> None:
    refused(packed(tmp_path / "a.tar.gz", (name, b"x")), "would lie outside of the archive's folder")


@pytest.mark.parametrize("target", ["/etc/passwd", "../..", "inside"])
def test_no_links(tmp_path: Path, target: str) -> None:
    archive = packed(tmp_path / "a.tar.gz", ("link", target), ("link/x", b"x"))
    refused(archive, "'link' is neither a file nor a folder")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_no_other_things(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("thing")
    info.type, info.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as opened:
        opened.addfile(info)
    refused(tmp_path / "a.tar.gz", "'thing' is neither a file nor a folder")


def test_bombs(tmp_path: Path) -> None:
    large = packed(tmp_path / "a.tar.gz", ("zeros", bytes(5_000_000)))
    assert large.stat().st_size < 10_000
    refused(large, "holds more than the 1000000 bytes that there is room for", most_bytes=1_000_000)
    assert not (tmp_path / "into" / "folder" / "zeros").exists()
    refused(packed(large, *((str(number), b"") for number in range(30))), "more than 20 files", most_files=20)


def test_a_size_that_no_disk_has(tmp_path: Path) -> None:
    info = tarfile.TarInfo("large")
    info.size = 2**50
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
    refused(tmp_path / "a.tar.gz", "bytes that there is room for")


@pytest.mark.parametrize("part", [0, 5, 0.3, 0.9, -1, -8])
def test_archives_that_are_cut_short(tmp_path: Path, part: float) -> None:
    archive = packed(tmp_path / "a.tar.gz", *((f"f{number}", bytes(range(256)) * 50) for number in range(9)))
    whole = archive.read_bytes()
    archive.write_bytes(whole[: int(part * len(whole)) if 0 < part < 1 else int(part)])
    refused(archive, "cut short or no gzipped tar archive")


def test_archives_that_are_damaged(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", ("a", b"a" * 3000))
    content = bytearray(archive.read_bytes())
    content[-6] ^= 255  # the checksum
    archive.write_bytes(content)
    refused(archive, "cut short or no gzipped tar archive")
    archive.write_text("<html>no archive</html>")
    refused(archive, "cut short or no gzipped tar archive")
    archive.write_bytes(gzip.compress(b"text and no archive"))
    refused(archive, "cut short or no gzipped tar archive")


def test_what_comes_after_the_end_is_bounded(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar.gz", ("a", b"a"))
    plain = gzip.decompress(archive.read_bytes())
    archive.write_bytes(gzip.compress(plain + bytes(2**26 + 2**20)))
    refused(archive, "more after the end")
