"""Which code a run was started from."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

__all__ = ["origin", "revision"]

_REMOTE = re.compile(
    r"(?:(?:https?|ssh)://(?:[^/@]*@)?|[^/@:]+@)(?P<host>[^/:]+)(?::(?=[^/0-9])|/)(?P<path>.+?)(?:\.git)?/?"
)


def revision(folder: Path = Path()) -> str:
    """Git revision of a folder, `+changes` behind it when there are some; empty outside git."""
    head = _git(folder, "rev-parse", "HEAD")
    changed = "+changes" if head and _git(folder, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{head[:12]}{changed}"


def origin(folder: Path = Path()) -> str:
    """Web address of the repository that a folder was cloned from, without credentials; empty when there is none."""
    match = _REMOTE.fullmatch(_git(folder, "remote", "get-url", "origin"))
    return f"https://{match['host']}/{match['path']}" if match else ""


def _git(folder: Path, *arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    answer = subprocess.run([git, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""
