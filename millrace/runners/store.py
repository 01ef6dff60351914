"""The artifact store: S3's own protocol, against a server of this rehearsal or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tarfile
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from millrace.errors import ConfigError, DataError, TaskFailedError
from millrace.runners.archive import Pieces, file_entry, folder_entry

__all__ = ["SCHEMES", "Store", "local_path", "open_moto", "open_store", "seed", "store_reason"]

SCHEMES = ("s3://", "minio://")
"""What the store can hold; both lead to the same buckets."""
_OPTIONS: Mapping[str, str] = {
    "region": "AWS_REGION",
    "access_key_id": "AWS_ACCESS_KEY_ID",
    "secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "session_token": "AWS_SESSION_TOKEN",
}
_MOUNTS: Mapping[str, str] = {"s3://": "/s3/", "minio://": "/minio/", "gs://": "/gcs/"}


def local_path(uri: str) -> str | None:
    """Where a container finds an artifact; None when the backend knows no such scheme."""
    for scheme, mount in _MOUNTS.items():
        if uri.startswith(scheme):
            return mount + uri.removeprefix(scheme)
    if uri.startswith("oci://"):
        return f"/oci/{uri.removeprefix('oci://').replace('/', '_')}/models"
    return None


@dataclass
class Store:
    """Buckets at one endpoint."""

    endpoint: str
    environment: Mapping[str, str]
    """What a container needs to reach it."""
    makes_buckets: bool
    _buckets: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bucket(self, name: str) -> Any:
        """A client for one bucket, which is made when the store is this rehearsal's own."""
        from obstore.store import S3Store

        with self._lock:
            if name in self._buckets:
                return self._buckets[name]
            if self.makes_buckets:
                _make_bucket(self.endpoint, name)

            config: dict[str, Any] = {
                key: self.environment[source] for key, source in _OPTIONS.items() if source in self.environment
            }
            self._buckets[name] = S3Store(
                name,
                endpoint=self.endpoint,
                virtual_hosted_style_request=False,
                client_options={"allow_http": True},
                retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=30)},
                **config,
            )
            return self._buckets[name]

    def download(self, uri: str, archive: tarfile.TarFile) -> int:
        """Add an artifact's objects to a tar stream, at the path where a container finds it; how many they are."""
        import obstore

        bucket, key = _split(uri)
        prefix = key.rstrip("/")
        place = PurePosixPath(local_path(uri) or "/")
        store = self.bucket(bucket)
        made: set[PurePosixPath] = set()
        _add_folders(archive, place, made)
        count = 0
        for page in (_exactly(store, prefix), *obstore.list(store, prefix=prefix or None)):
            for item in page:
                path = place / item["path"].removeprefix(prefix).lstrip("/")
                _add_folders(archive, path, made)
                body = obstore.get(store, item["path"]).stream(min_chunk_size=1 << 20)
                archive.addfile(file_entry(path.as_posix(), item["size"]), BufferedReader(Pieces(body)))
                count += 1
        return count

    def check(self, uri: str) -> None:
        """Make sure that a bucket is there and can be listed.

        Raises:
            ConfigError: When it can't.
        """
        import obstore
        from obstore.exceptions import BaseError

        bucket, key = _split(uri)
        try:
            next(iter(obstore.list(self.bucket(bucket), prefix=key, chunk_size=1)), None)
        except (BaseError, OSError) as error:
            raise ConfigError(f"rehearse.endpoint: {uri} at {self.endpoint}: {store_reason(error)}") from None

    def upload(self, place: Path, uri: str) -> int:
        """Put a file or the files of a folder under a URI; how many they are."""
        import obstore

        bucket, key = _split(uri)
        files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
        store = self.bucket(bucket)
        for file in files:
            inside = "" if file == place else f"/{file.relative_to(place).as_posix()}"
            obstore.put(store, f"{key.rstrip('/')}{inside}", file)
        return len(files)


def store_reason(error: Exception) -> str:
    """Why a store failed; its own text may quote keys and signatures, and is not passed on."""
    text = str(error)
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d{3})|\b([45]\d\d) [A-Z]", text)
    told = [code[1] if code else "", (status[1] or status[2]) if status else ""]
    return " ".join(word for word in told if word) or "no answer"


def _exactly(store: Any, key: str) -> list[Any]:
    """The object of that very key, which listing what is below it leaves out."""
    import obstore

    try:
        return [obstore.head(store, key)] if key else []
    except FileNotFoundError:
        return []


def _add_folders(archive: tarfile.TarFile, path: PurePosixPath, made: set[PurePosixPath]) -> None:
    """Add the folders above a path to a tar stream, but those that were added before."""
    for folder in reversed(path.parents[:-1]):
        if folder not in made:
            made.add(folder)
            archive.addfile(folder_entry(folder.as_posix()))


def _split(uri: str) -> tuple[str, str]:
    scheme, _, rest = uri.partition("://")
    if f"{scheme}://" not in SCHEMES:
        raise TaskFailedError(f"{uri}: the rehearsal's store has no {scheme or 'such'} scheme, only s3 and minio")
    bucket, _, key = rest.partition("/")
    return bucket, key


def _make_bucket(endpoint: str, name: str) -> None:
    """Make a bucket in the rehearsal's own server, which asks for no signature."""
    request = urllib.request.Request(f"{endpoint}/{name}", data=b"", method="PUT")  # noqa: S310 - our own server, by HTTP
    with urllib.request.urlopen(request, timeout=60):  # noqa: S310 - the same
        pass


@contextlib.contextmanager
def open_store(endpoint: str | None) -> Iterator[Store]:
    """The store at an endpoint, or without one a server that lives as long as this context.

    Raises:
        ConfigError: When a package or the endpoint's credentials are missing.
    """
    if find_spec("obstore") is None:
        raise ConfigError("a rehearsal needs obstore: pip install -e '.[rehearse]'")
    if endpoint is not None:
        yield Store(endpoint, _own_environment(endpoint), makes_buckets=False)
        return
    with open_moto() as address:
        environment = {
            "AWS_ACCESS_KEY_ID": "rehearsal",
            "AWS_SECRET_ACCESS_KEY": "rehearsal",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": address,
        }
        yield Store(address, environment, makes_buckets=True)


@contextlib.contextmanager
def open_moto() -> Iterator[str]:
    """The address of a server that answers as S3 and AWS's other services do, as long as this context lives.

    Raises:
        ConfigError: When the package is missing.
    """
    try:
        from moto.server import ThreadedMotoServer
    except ImportError:
        raise ConfigError(
            "a rehearsal needs an S3 store: pip install -e '.[rehearse]', or name one: rehearse.endpoint=URL"
        ) from None
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _own_environment(endpoint: str) -> dict[str, str]:
    if not os.environ.get("AWS_ACCESS_KEY_ID") or not os.environ.get("AWS_SECRET_ACCESS_KEY"):
        raise ConfigError(
            "rehearse.endpoint needs its credentials in the environment: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    found = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {"AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1", **found, "AWS_ENDPOINT_URL": endpoint}


def seed(store: Store, places: Mapping[str, Path]) -> None:
    """Put folders or files into the store: `{bucket/prefix: place}`.

    Raises:
        DataError: When a place is not there.
    """
    for target, place in places.items():
        if not place.exists():
            raise DataError(f"rehearse.seed: {place} is not there")
        store.upload(place, target if "://" in target else f"s3://{target}")
