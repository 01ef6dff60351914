"""model.tar.gz and output.tar.gz, the forms in which SageMaker keeps what a training made.

Archives are not trusted: nothing is written outside the folder, links and devices are refused, and what a small
file may grow to is bounded.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from millrace.errors import DataError

__all__ = ["unpack"]

_MOST_BYTES = 256 * 2**30
_MOST_FILES = 200_000
_LONGEST_TAIL = 64 * 2**20


def unpack(archive: Path, folder: Path, *, most_bytes: int = _MOST_BYTES, most_files: int = _MOST_FILES) -> None:
    """Unpack a gzipped tar archive into a folder.

    Args:
        archive: The file.
        folder: Made if it is not there.
        most_bytes: What is in it may not be larger together; nor than the disk has room for.
        most_files: Nor may it hold more files and folders.

    Raises:
        DataError: When it is cut short, damaged, too large, or holds what is no file and no folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    most = min(most_bytes, shutil.disk_usage(folder).free)
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as opened:
            _extract(archive, opened, folder, most, most_files)
            _read_to_end(archive, stream)
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise DataError(f"{archive} is cut short or no gzipped tar archive: {error}") from error


def _extract(archive: Path, opened: tarfile.TarFile, folder: Path, most_bytes: int, most_files: int) -> None:
    size = 0
    for number, member in enumerate(opened, start=1):
        if not (member.isreg() or member.isdir()):
            raise DataError(f"{archive}: {member.name!r} is neither a file nor a folder; links are not unpacked")
        size += member.size
        if number > most_files:
            raise DataError(f"{archive} holds more than {most_files} files")
        if size > most_bytes:
            raise DataError(f"{archive} holds more than the {most_bytes} bytes that there is room for")
        _write(opened, member, folder / _inside(archive, member.name))


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive}: {name!r} would lie outside of the archive's folder")
    return path


def _write(opened: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write a file, or make a folder; what was unpacked before it holds no links that could lead elsewhere."""
    content = opened.extractfile(member)
    if content is None:
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as stream:
        shutil.copyfileobj(content, stream)
        if stream.tell() != member.size:
            raise EOFError(f"{member.name} ends too soon")


def _read_to_end(archive: Path, stream: gzip.GzipFile) -> None:
    """Meet gzip's checksum, which comes after the end of the tar archive."""
    tail = 0
    while chunk := stream.read(2**20):
        tail += len(chunk)
        if tail > _LONGEST_TAIL:
            raise DataError(f"{archive}: there is more after the end of the archive")
