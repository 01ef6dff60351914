"""Objects of the store as a job's inputs: which ones they are, which host gets them, and how they are called there."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import PurePosixPath
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.archive import file_entry, folder_entry
from millrace.runners.sagemaker.place import Place

__all__ = [
    "Item",
    "ServiceError",
    "add_files",
    "add_folders",
    "bucket_and_key",
    "deal",
    "explained",
    "find_items",
    "list_items",
    "read_object",
    "split_uri",
]

_ROOT = PurePosixPath("/opt/ml")


class ServiceError(TaskFailedError):
    """The service would refuse or fail the job; the message is its reason."""


@dataclass(frozen=True)
class Item:
    """An object, and its name below the folder of its input."""

    bucket: str
    key: str
    name: str
    size: int


@contextlib.contextmanager
def explained(what: str = "the store") -> Iterator[None]:
    """Errors of boto3 in the terms of a rehearsal; their own text may quote requests, and is not passed on whole."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise TaskFailedError(f"{what}: {error.response.get('Error', {}).get('Code', 'no answer')}") from None
    except BotoCoreError as error:
        raise TaskFailedError(f"{what}: {type(error).__name__}") from None


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of a URI.

    Raises:
        ServiceError: When it is none of S3.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ServiceError(f"ValidationException: {uri!r} is no S3 URI: s3://BUCKET/KEY")
    return bucket, key


def bucket_and_key(place: Place, uri: str) -> tuple[str, str]:
    """Bucket and key of a URI; the bucket is made when the store is this rehearsal's own."""
    bucket, key = split_uri(uri)
    if place.store.makes_buckets:
        place.store.bucket(bucket)
    return bucket, key


def find_items(place: Place, uri: str, kind: str) -> list[Item]:
    """The objects of an input, sorted by their keys.

    Args:
        place: Where the store is.
        uri: A prefix, which need not end at a slash, or a manifest.
        kind: S3Prefix or ManifestFile.

    Raises:
        ServiceError: When there are none, or a manifest can't be followed.
    """
    found = _of_manifest(place, uri) if kind == "ManifestFile" else list_items(place, uri)
    if not found:
        raise ServiceError(
            f'No S3 objects found under S3 URL "{uri}" given in input data source: its bucket must be in '
            f"{place.region}, with objects below that prefix"
        )
    found.sort(key=lambda item: item.key)
    _refuse_impossible(found)
    return found


def list_items(place: Place, uri: str) -> list[Item]:
    """The objects whose keys begin with a prefix; none when there is no such bucket."""
    return list(_of_prefix(place, uri))


def _of_prefix(place: Place, uri: str) -> Iterator[Item]:
    bucket, prefix = bucket_and_key(place, uri)
    with explained(uri), _nothing_without_bucket():
        for page in place.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for found in page.get("Contents", ()):
                key = found["Key"]
                if not key.endswith("/"):  # one that stands for a folder
                    yield Item(bucket, key, _below(prefix, key), found["Size"])


@contextlib.contextmanager
def _nothing_without_bucket() -> Iterator[None]:
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "NoSuchBucket":
            raise


def _below(prefix: str, key: str) -> str:
    """The name of an object below its input: a prefix that ends in the middle of a name belongs to that name."""
    rest = key.removeprefix(prefix)
    if prefix.endswith("/") or rest.startswith("/") or not prefix:
        return rest.lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def _of_manifest(place: Place, uri: str) -> list[Item]:
    """What a manifest lists: `[{"prefix": "s3://bucket/folder/"}, "name", ...]`."""
    try:
        told = json.loads(read_object(place, uri))
        base, names = told[0]["prefix"], told[1:]
        if not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, TypeError, KeyError, IndexError):
        raise ServiceError(
            f'ClientError: {uri} is no manifest: it must be [{{"prefix": "s3://..."}}, "name", ...]'
        ) from None
    bucket, prefix = bucket_and_key(place, base)
    return [_named(place, bucket, prefix, name, uri) for name in names]


def _named(place: Place, bucket: str, prefix: str, name: str, manifest: str) -> Item:
    from botocore.exceptions import ClientError

    with explained(manifest):
        try:
            size = place.client.head_object(Bucket=bucket, Key=prefix + name)["ContentLength"]
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            raise ServiceError(
                f"ClientError: s3://{bucket}/{prefix}{name}, which the manifest {manifest} names, is not there"
            ) from None
    return Item(bucket, prefix + name, name.lstrip("/"), size)


def read_object(place: Place, uri: str) -> bytes:
    """The bytes of one small object.

    Raises:
        ServiceError: When it is not there.
    """
    from botocore.exceptions import ClientError

    bucket, key = bucket_and_key(place, uri)
    with explained(uri):
        try:
            return bytes(place.client.get_object(Bucket=bucket, Key=key)["Body"].read())
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            raise ServiceError(f"ClientError: {uri} is not there") from None


def _refuse_impossible(items: Sequence[Item]) -> None:
    """Names that no folder can hold."""
    folders = {parent.as_posix() for item in items for parent in PurePosixPath(item.name).parents[:-1]}
    for item in items:
        if ".." in item.name.split("/"):
            raise ServiceError(f"ClientError: s3://{item.bucket}/{item.key} would be outside of its input's folder")
        if item.name in folders:
            raise ServiceError(f"ClientError: s3://{item.bucket}/{item.key} is an object and a folder of others")


def deal(items: Sequence[Item], hosts: int, distribution: str, what: str) -> list[Sequence[Item]]:
    """The objects that each host gets.

    Raises:
        ServiceError: When a host would get none.
    """
    if distribution != "ShardedByS3Key":
        return [items] * hosts
    if len(items) < hosts:
        raise ServiceError(
            f"ClientError: {what} is sharded by key over {hosts} hosts and has {len(items)} "
            f"object{'s' * (len(items) != 1)}: some hosts would get none"
        )
    return [items[index::hosts] for index in range(hosts)]


def add_folders(archive: tarfile.TarFile, paths: Sequence[str]) -> None:
    """Add folders that anybody may write to, with those above them that are the service's own."""
    made: set[PurePosixPath] = set()
    for path in map(PurePosixPath, paths):
        for folder in [*reversed(path.parents), path]:
            if folder not in made and (folder == path or folder.is_relative_to(_ROOT)):
                made.add(folder)
                archive.addfile(folder_entry(folder.as_posix()))


def add_files(place: Place, archive: tarfile.TarFile, path: str, items: Sequence[Item]) -> None:
    """Add an input's objects to a tar stream, below its folder."""
    made: set[PurePosixPath] = set()
    for item in items:
        file = PurePosixPath(path) / item.name
        for folder in reversed(file.parents):
            if folder not in made and folder.is_relative_to(path):
                made.add(folder)
                archive.addfile(folder_entry(folder.as_posix()))
        with explained(f"s3://{item.bucket}/{item.key}"):
            body: Any = place.client.get_object(Bucket=item.bucket, Key=item.key)["Body"]
            archive.addfile(file_entry(file.as_posix(), item.size), BufferedReader(body, 1 << 20))
