"""The outputs of a task whose work was divided: the union of its workers' folders."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from millrace.errors import TaskFailedError
from millrace.runtime.execute import digest
from millrace.runtime.task import MadeArtifact, TaskResult, read_result, whole_result, write_atomically
from millrace.runtime.union import add_tree

__all__ = ["finished", "merge_shares"]


def merge_shares(shares: Sequence[Path]) -> tuple[Path, TaskResult]:
    """Make a task directory, beside those of the shares, that holds every file of every share's outputs.

    Files are linked, not copied, where the file system can. A file that two shares wrote must have
    the same contents in both.

    Raises:
        TaskFailedError: When two shares wrote different files of one name, or a share has no result.
    """
    results = [finished(share) for share in shares]
    digests = "".join(made.digest for result in results for _, made in sorted(result.outputs.items()))
    directory = shares[0].with_name(hashlib.sha256(digests.encode()).hexdigest()[:20])
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / ".lock"):
        done = whole_result(directory)
        if done is not None:
            return directory, done
        partial = directory / "partial"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(directory / "outputs", ignore_errors=True)
        for share, result in zip(shares, results, strict=True):
            for made in result.outputs.values():
                add_tree(partial / Path(made.path).name, [share / made.path])
        partial.replace(directory / "outputs")
        merged = TaskResult(
            outputs={port: _merged(directory, made.path) for port, made in results[0].outputs.items()},
            seconds=sum(result.seconds for result in results),
            peak_memory=max(result.peak_memory for result in results),
        )
        write_atomically(directory / "result.json", merged.model_dump_json(indent=2))
        return directory, merged


def finished(directory: Path) -> TaskResult:
    """The result of a task directory that is known to be finished.

    Raises:
        TaskFailedError: When somebody has removed it since.
    """
    result = read_result(directory)
    if result is None:
        raise TaskFailedError(f"the result of {directory} vanished")
    return result


def _merged(directory: Path, path: str) -> MadeArtifact:
    content, size = digest(directory / path)
    return MadeArtifact(path=path, digest=content, bytes=size)
