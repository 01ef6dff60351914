"""Which code a run was started from."""

from __future__ import annotations

import shutil
import subprocess

__all__ = ["revision"]


def revision() -> str:
    """Git revision of the current folder, `+changes` behind it when there are some; empty outside git."""
    head = _git("rev-parse", "HEAD")
    changed = "+changes" if head and _git("status", "--porcelain", "--untracked-files=no") else ""
    return f"{head[:12]}{changed}"


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        return ""
    answer = subprocess.run([git, *arguments], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""
