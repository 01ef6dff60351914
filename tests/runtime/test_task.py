"""Task directories on disks that are full or in the way."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from millrace.errors import explain_os_error
from millrace.runtime.execute import explain
from millrace.runtime.task import launch, read_failure, write_atomically


def test_a_file_that_can_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "run.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_to_do(number: int) -> None:
    told = explain_os_error(OSError(number, os.strerror(number), "/data/big"))
    assert told.startswith("/data/big: the disk is full: free some space")


@pytest.mark.parametrize(
    "write",
    [
        lambda frame, path: frame.write_parquet(path),
        lambda frame, path: frame.lazy().sink_parquet(path),
        lambda frame, path: frame.write_ipc_stream(path),
    ],
    ids=["parquet", "parquet, streamed", "ipc"],
)
def test_a_full_disk_that_polars_meets_is_told_alike(
    tmp_path: Path, write: Callable[[pl.DataFrame, str], None]
) -> None:
    with pytest.raises((OSError, pl.exceptions.PolarsError)) as raised:
        write(pl.DataFrame({"number": range(100_000)}), "/dev/full")
    assert explain(tmp_path, raised.value) == 1
    failure = read_failure(tmp_path)
    assert failure is not None
    assert (failure.kind, failure.message[:38]) == ("disk_full", "the disk is full: free some space (or ")


@pytest.mark.parametrize(("given", "level"), [(None, "2"), ("0", "0")])
def test_tensorflow_tells_a_worker_only_errors_unless_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, level: str
) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    if given is not None:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", given)
    process = launch(tmp_path)
    try:
        told = b""
        while not told and process.poll() is None:  # for a moment after exec there is none
            told = Path(f"/proc/{process.pid}/environ").read_bytes()
    finally:
        process.kill()
        process.communicate()
    assert f"TF_CPP_MIN_LOG_LEVEL={level}".encode() in told.split(b"\0")


def test_the_peak_of_memory_is_that_of_the_largest_process() -> None:
    child = "bytearray(b'x') * 300_000_000"
    script = f"""
import subprocess, sys
from millrace.runtime.execute import _peak_memory
before = _peak_memory()
subprocess.run([sys.executable, "-c", {child!r}], check=True)
print(before, _peak_memory())
"""
    before, after = map(int, subprocess.check_output([sys.executable, "-c", script]).split())
    assert before < 300_000_000
    assert after >= 300_000_000
