"""What the Docker engine's containers are for a rehearsal, whatever happens to its readers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from millrace.runners.engine import Engine, connect
from millrace.runners.pod import Pod
from tests.runners.rehearsals import left_behind
from tests.runners.sagemaker.jobs import IMAGE

pytestmark = pytest.mark.docker

SOON = 30
BIG = ("sh", "-c", "head -c 50000000 /dev/zero > /srv/big; ln -s /srv/big /srv/link; echo small > /srv/small")


class Ignored:
    """A log that nobody reads."""

    def write(self, piece: bytes, /) -> None:
        pass

    def flush(self) -> None:
        pass


@pytest.fixture
def engine(docker_engine: Any) -> Iterator[Engine]:
    if not docker_engine.images.list(IMAGE):
        docker_engine.images.pull(IMAGE)
    made = connect(f"test-{uuid.uuid4().hex[:8]}")
    try:
        yield made
        assert left_behind(docker_engine, made.identity) == []
    finally:
        closing = Thread(target=made.close, daemon=True)
        closing.start()
        closing.join(SOON)


def soon(engine: Engine, read: Any) -> None:
    """Read of a container with a big file; it must be removed soon whatever became of the reader."""
    failures: list[BaseException] = []

    def attempt() -> None:
        try:
            with engine.container(Pod(f"{engine.identity}-big", IMAGE, BIG)) as container:
                assert engine.run(container, Ignored(), None).code == 0
                read(container)
        except BaseException as error:
            failures.append(error)

    thread = Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(SOON)
    assert not thread.is_alive(), "the container is not removed"
    for failure in failures:
        if not isinstance(failure, ZeroDivisionError):
            raise failure


def test_a_container_is_removed_when_its_reader_fails(engine: Engine) -> None:
    def fails(container: str) -> None:
        with engine.read(container, "/srv/big") as archive:
            assert archive
            assert next(iter(archive)).size == 50_000_000
            raise ZeroDivisionError

    soon(engine, fails)


def test_a_container_is_removed_when_its_reader_reads_the_beginning(engine: Engine) -> None:
    def begins(container: str) -> None:
        with engine.read(container, "/srv/big") as archive:
            stream = archive.extractfile(next(iter(archive))) if archive else None
            assert stream
            assert stream.read(10) == bytes(10)

    soon(engine, begins)


def test_a_container_is_removed_when_its_file_can_not_be_kept(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "kept" / "big").mkdir(parents=True)

    def copies(container: str) -> None:
        with pytest.raises(OSError, match="big"):
            engine.get(container, "/srv/big", tmp_path / "kept")

    soon(engine, copies)


def test_files_come_out_and_what_is_not_there_is_none(engine: Engine, tmp_path: Path) -> None:
    def copies(container: str) -> None:
        found = engine.get(container, "/srv/small", tmp_path)
        assert found
        assert found.read_text() == "small\n"
        linked = engine.get(container, "/srv/link", tmp_path)
        assert linked
        assert linked.stat().st_size == 50_000_000
        assert engine.get(container, "/srv/none", tmp_path) is None

    began = time.monotonic()
    soon(engine, copies)
    assert time.monotonic() - began < SOON
