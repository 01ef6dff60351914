"""What the containers of a job leave, put into the store."""

from __future__ import annotations

import hashlib
import tarfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import PurePosixPath
from tempfile import TemporaryFile
from typing import IO, NamedTuple, Self

from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.staging import bucket_and_key, explained

__all__ = ["Uploaded", "pack", "read_text", "upload_tree"]

_SMALL = 1 << 20
"""Bytes of an object that is sent in one piece."""
_PIECE = 1 << 20
_THREADS = 8


def read_text(place: Place, container: str, path: str, limit: int) -> bytes:
    """The first bytes of a container's file; empty when it is not there."""
    with place.engine.read(container, path) as archive:
        member = archive.next() if archive else None
        stream = archive.extractfile(member) if archive and member and member.isfile() else None
        return stream.read(limit) if stream else b""


class Uploaded(NamedTuple):
    """What became of a container's folder."""

    digests: dict[str, str]
    """Of the contents of each object, by its URI."""
    links: list[str]
    """Paths of symbolic links, which were left out."""


def upload_tree(place: Place, container: str, path: str, uri: str) -> Uploaded:
    """Put a container's folder or file below a URI, but no symbolic links."""
    bucket, prefix = bucket_and_key(place, uri)
    done = Uploaded({}, [])
    again: list[tuple[str, str]] = []

    def key_of(name: str) -> str:
        return "/".join(part for part in (prefix.rstrip("/"), name) if part)

    with explained(uri):
        with place.engine.read(container, path) as archive, _Sender(place, bucket) as sender:
            for member, name in _members(archive):
                if member.issym():
                    done.links.append(f"{path}/{name}")
                elif member.islnk():
                    again.append((_inside(member.linkname), name))
                elif archive and (stream := archive.extractfile(member)):
                    key = key_of(name)
                    done.digests[f"s3://{bucket}/{key}"] = sender.send(stream, member.size, key)
        for first, name in again:
            place.client.copy({"Bucket": bucket, "Key": key_of(first)}, bucket, key_of(name))
            done.digests[f"s3://{bucket}/{key_of(name)}"] = done.digests[f"s3://{bucket}/{key_of(first)}"]
    return done


def pack(place: Place, containers: Sequence[str], path: str, uri: str, *, always: bool) -> list[str]:
    """Put one folder of several containers into one `.tar.gz` object.

    Args:
        place: Where the store is.
        containers: The first one's file counts where several have one of the same name.
        path: The folder.
        uri: The object.
        always: Make an empty archive when the folders are empty.

    Returns:
        Names that more than one container had.
    """
    seen: set[str] = set()
    twice: list[str] = []
    # without a name in any folder, so that nothing is left whatever happens
    with TemporaryFile(dir=place.directory) as spool:
        with tarfile.open(fileobj=spool, mode="w:gz", compresslevel=1) as made:
            for container in containers:
                with place.engine.read(container, path) as archive:
                    for member, name in _members(archive, folders=True):
                        if name in seen:
                            twice += [] if member.isdir() else [name]
                            continue
                        seen.add(name)
                        member.name = name
                        if member.islnk():
                            member.linkname = _inside(member.linkname)
                        made.addfile(member, archive.extractfile(member) if archive and member.isfile() else None)
        if seen or always:
            bucket, key = bucket_and_key(place, uri)
            spool.seek(0)
            with explained(uri):
                place.client.upload_fileobj(spool, bucket, key)
    return sorted(set(twice))


def _members(archive: tarfile.TarFile | None, *, folders: bool = False) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Files and links of a stream, and folders where asked, by their names below its top; a file that is the top."""
    for member in archive or ():
        name = _inside(member.name)
        top = not name
        if top and not member.isdir():
            name = PurePosixPath(member.name).name
        if name and (member.isfile() or member.issym() or member.islnk() or (folders and member.isdir())):
            yield member, name


def _inside(name: str) -> str:
    return "/".join(PurePosixPath(name).parts[1:])


class _Sender:
    """Sends objects, many small ones at the same time."""

    def __init__(self, place: Place, bucket: str) -> None:
        self._place = place
        self._bucket = bucket
        self._pool = ThreadPoolExecutor(_THREADS)
        self._sent: deque[Future[object]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()
        for sent in self._sent:
            sent.result()

    def send(self, stream: IO[bytes], size: int, key: str) -> str:
        """Send one object; the digest of its contents."""
        client = self._place.client
        if size <= _SMALL:
            while len(self._sent) >= 2 * _THREADS:  # so that few wait in memory
                self._sent.popleft().result()
            body = stream.read()
            self._sent.append(self._pool.submit(client.put_object, Bucket=self._bucket, Key=key, Body=body))
            return hashlib.sha256(body).hexdigest()
        digest = hashlib.sha256()
        with TemporaryFile(dir=self._place.directory) as spool:  # a part that fails is sent again
            while piece := stream.read(_PIECE):
                spool.write(piece)
                digest.update(piece)
            spool.seek(0)
            client.upload_fileobj(spool, self._bucket, key)
        return digest.hexdigest()
