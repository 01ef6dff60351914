"""Environments of peers: one for each `benchmarks/peers/NAME.txt`, made once and kept until that file changes."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

from millrace.errors import ConfigError

__all__ = ["PeerMissingError", "python_of"]

_PEERS = Path(__file__).parent / "peers"
_KEPT = Path(__file__).parent / ".environments"
_TAIL = 800
_INSTALL_SECONDS = 1800


class PeerMissingError(Exception):
    """A peer can't be installed on this machine; the message says why."""


def python_of(name: str | None, *, peers: Path = _PEERS, kept: Path = _KEPT) -> Path:
    """The interpreter of a peer's environment, which is made when it is not there yet; ours for None.

    Raises:
        ConfigError: When there are no requirements of that name.
        PeerMissingError: When they can't be installed.
    """
    if name is None:
        return Path(sys.executable)
    requirements = peers / f"{name}.txt"
    if not requirements.is_file():
        raise ConfigError(f"{requirements} is missing: it has to list what the peer {name!r} needs, with versions")
    digest = hashlib.sha256(requirements.read_bytes() + platform.python_version().encode()).hexdigest()
    folder = kept / f"{name}-{digest[:12]}"
    kept.mkdir(exist_ok=True)
    with FileLock(kept / f"{name}.lock"):
        if not (folder / "whole").is_file():
            for old in kept.glob(f"{name}-*"):
                shutil.rmtree(old)
            _make(folder, requirements)
            (folder / "whole").touch()
    return folder / "bin" / "python"


def _make(folder: Path, requirements: Path) -> None:
    python = folder / "bin" / "python"
    steps = (
        [sys.executable, "-m", "venv", "--without-pip", str(folder)],
        [
            *(sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--prefer-binary"),
            *("--requirement", str(requirements)),
        ],
    )
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    for step in steps:
        try:
            done = subprocess.run(
                step, capture_output=True, text=True, check=False, env=environment, timeout=_INSTALL_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise PeerMissingError(f"installing {requirements.name} took more than {_INSTALL_SECONDS} s") from error
        if done.returncode:
            raise PeerMissingError(f"{requirements.name} can't be installed: {done.stderr.strip()[-_TAIL:]}")
