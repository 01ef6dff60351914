"""Peers have environments of their own, made once; one that can't be made is told as missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.environments import PeerMissingError, python_of
from millrace.errors import ConfigError


def test_an_environment_is_made_once_and_anew_when_the_requirements_change(tmp_path: Path) -> None:
    peers, kept = tmp_path / "peers", tmp_path / "kept"
    peers.mkdir()
    (peers / "nothing.txt").write_text("# nothing\n")
    python = python_of("nothing", peers=peers, kept=kept)
    modules = subprocess.run([python, "-c", "import pydantic"], capture_output=True, text=True, check=False)
    assert "No module named 'pydantic'" in modules.stderr  # it has nothing of ours
    made = python.stat().st_ctime_ns
    assert python_of("nothing", peers=peers, kept=kept) == python
    assert python.stat().st_ctime_ns == made
    (peers / "nothing.txt").write_text("# nothing at all\n")
    other = python_of("nothing", peers=peers, kept=kept)
    assert other != python
    assert not python.exists()


def test_what_pip_refuses_is_missing(tmp_path: Path) -> None:
    (tmp_path / "broken.txt").write_text(f"{tmp_path}/there-is-no-such-wheel.whl\n")
    with pytest.raises(PeerMissingError, match=r"broken\.txt can't be installed"):
        python_of("broken", peers=tmp_path, kept=tmp_path / "kept")


def test_ours_and_names_without_requirements(tmp_path: Path) -> None:
    assert python_of(None) == Path(sys.executable)
    with pytest.raises(ConfigError, match=r"nobody\.txt is missing"):
        python_of("nobody", peers=tmp_path, kept=tmp_path / "kept")
