"""A model's files, as hosting puts them into /opt/ml/model."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import PurePosixPath
from typing import Any

from millrace.errors import TaskFailedError
from millrace.runners.archive import file_entry, folder_entry
from millrace.runners.sagemaker.place import Place
from millrace.runners.sagemaker.staging import (
    ServiceError,
    add_files,
    add_folders,
    bucket_and_key,
    explained,
    find_items,
)

__all__ = ["model_filling"]

_MODEL = "/opt/ml/model"


def model_filling(place: Place, container: Mapping[str, Any]) -> Callable[[tarfile.TarFile], None]:
    """What adds a model's files to a tar stream.

    Args:
        place: Where the store is.
        container: A ContainerDefinition.
    """
    source = container.get("ModelDataSource", {}).get("S3DataSource", {})
    uri = container.get("ModelDataUrl") or source.get("S3Uri")
    packed = source.get("CompressionType", "Gzip") == "Gzip"

    def fill(archive: tarfile.TarFile) -> None:
        add_folders(archive, [_MODEL])
        if uri and packed:
            _unpack(place, uri, archive)
        elif uri:
            add_files(place, archive, _MODEL, find_items(place, uri, "S3Prefix"))

    return fill


def _unpack(place: Place, uri: str, archive: tarfile.TarFile) -> None:
    """Add what a `.tar.gz` object holds."""
    from botocore.exceptions import ClientError

    bucket, key = bucket_and_key(place, uri)
    with explained(uri):
        try:
            body: Any = place.client.get_object(Bucket=bucket, Key=key)["Body"]
        except ClientError as error:
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
                raise
            raise ServiceError(f"ValidationException: there is no model data at {uri}") from None
        try:
            with tarfile.open(fileobj=BufferedReader(body, 1 << 20), mode="r|gz") as packed:
                for member in packed:
                    _add(archive, packed, member)
        except (tarfile.TarError, EOFError, OSError) as error:
            raise TaskFailedError(f"{uri} is no tar.gz archive: {error}") from None


def _add(archive: tarfile.TarFile, packed: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts:
        raise TaskFailedError(f"the model's archive has a file outside of its folder: {member.name}")
    path = (PurePosixPath(_MODEL) / name).as_posix()
    if member.isdir():
        archive.addfile(folder_entry(path))
    elif member.isfile():
        archive.addfile(file_entry(path, member.size), packed.extractfile(member))
    elif member.issym() or member.islnk():
        entry = tarfile.TarInfo(path.strip("/"))
        entry.type = member.type
        entry.linkname = member.linkname if member.issym() else f"{_MODEL}/{member.linkname}".strip("/")
        archive.addfile(entry)
