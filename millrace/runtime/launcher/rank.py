"""One rank: the component's work in a process of its own, on the task directory of its host."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from millrace.errors import ConfigError, MillraceError, report
from millrace.registry import load_component
from millrace.runtime.context import Context, Rank
from millrace.runtime.execute import execute, explain, output_handles, perform, read_request
from millrace.runtime.launcher.environment import PIN, read_rank
from millrace.runtime.launcher.folders import RANK_RESULT, rank_folder
from millrace.runtime.launcher.mpi import SECONDS, joined
from millrace.runtime.task import write_atomically

__all__ = ["execute_rank", "execute_under_mpirun"]


def execute_rank(directory: Path) -> int:
    """Do the work of the rank that the environment names, and return the exit code.

    One rank of each host writes the outputs of its task; what the others write goes when the task ends.
    """
    rank = read_rank()
    level = logging.INFO if rank.makes_outputs else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    if os.environ.get(PIN) == "1":
        _pin(rank)
    folder = rank_folder(directory, rank)
    lock = directory / f".rank-{rank.index}.lock"  # not in the folder, which a new attempt removes
    return _execute(directory, rank, folder, (directory if rank.makes_outputs else folder, lock))


def execute_under_mpirun(directory: Path) -> int:
    """Do the work of one of the ranks that mpirun has started, on this task directory, which they may share."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    try:
        with joined(os.environ, logging.getLogger("millrace"), _peer_seconds(directory)) as rank:
            if rank.index == 0:
                (directory / "result.json").unlink(missing_ok=True)  # which the others may not see
                return execute(directory, rank)
            folder = directory / f".rank-{rank.index}"
            try:
                return _execute(directory, rank, folder, (folder, folder / ".lock"))
            finally:  # what failed shall not fill the disk, and mpirun's output says why it did
                shutil.rmtree(folder, ignore_errors=True)
    except MillraceError as error:
        return report(error)


def _peer_seconds(directory: Path) -> float:
    """How long ranks wait for each other, where a component has such a parameter."""
    with contextlib.suppress(ConfigError):  # it will be told in its place
        given = read_request(directory).parameters.get("peer_seconds")
        return float(given) if isinstance(given, int | float) and given > 0 else SECONDS
    return SECONDS


def _execute(directory: Path, rank: Rank, folder: Path, to: tuple[Path, Path]) -> int:
    """Do a rank's work; `to` are the place of its outputs, and the lock that it holds meanwhile."""
    place, lock = to
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock):  # one of an earlier attempt may still be ending
            _work(directory, rank, folder, place)
    except Exception as error:  # the boundary of the process: everything becomes a recorded failure
        return explain(folder, error)
    return 0


def _work(directory: Path, rank: Rank, folder: Path, place: Path) -> None:
    """Do a rank's work in this process, with its outputs in `place` and all else in its own folder."""
    request = read_request(directory)
    partial, scratch, checkpoints = place / "partial", folder / "scratch", place / "checkpoints"
    for made in (partial, scratch):  # of ranks before
        shutil.rmtree(made, ignore_errors=True)
    for made in (partial, scratch, checkpoints):
        made.mkdir(parents=True, exist_ok=True)
    context = Context(
        scratch=scratch,
        checkpoints=checkpoints,
        share=request.share,
        hosts=request.hosts,
        rank=rank,
        directory=directory,
        cores=max(1, request.cores // rank.local_size),
        progress_file=directory / "progress.json" if place == directory else None,
        run=request.run,
        task=request.name,
    )
    component = load_component(request.component)
    result = perform(component, request, output_handles(component, partial), context)
    write_atomically(folder / RANK_RESULT, result.model_dump_json())


def _pin(rank: Rank) -> None:
    """Keep to this rank's share of the processor cores, where there is one for each."""
    cores = sorted(os.sched_getaffinity(0))
    share = len(cores) // rank.local_size
    if share:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores[rank.local_index * share : (rank.local_index + 1) * share])
