"""Task directories on disks that are full or in the way."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from millrace.errors import explain_os_error
from millrace.runtime.task import write_atomically


def test_a_file_that_can_not_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "run.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_what_to_do(number: int) -> None:
    told = explain_os_error(OSError(number, os.strerror(number), "/data/big"))
    assert told.startswith("/data/big: the disk is full: free some space")
