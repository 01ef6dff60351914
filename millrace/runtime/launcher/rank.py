"""One rank: the component's work in a process of its own, on the task directory of its host."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from pathlib import Path

from filelock import FileLock

from millrace.registry import load_component
from millrace.runtime.context import Context, Rank
from millrace.runtime.execute import explain, output_handles, perform, read_request
from millrace.runtime.launcher.environment import PIN, read_rank
from millrace.runtime.launcher.folders import RANK_RESULT, rank_folder
from millrace.runtime.task import TaskRequest, write_atomically

__all__ = ["execute_rank"]


def execute_rank(directory: Path) -> int:
    """Do the work of the rank that the environment names, and return the exit code.

    One rank of each host writes the outputs of its task; what the others write goes when the task ends.
    """
    rank = read_rank()
    level = logging.INFO if rank.makes_outputs else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    if os.environ.get(PIN) == "1":
        _pin(rank)
    try:
        with FileLock(directory / f".rank-{rank.index}.lock"):  # one of an earlier attempt may still be ending
            work(directory, read_request(directory), rank)
    except Exception as error:  # the boundary of the process: everything becomes a recorded failure
        return explain(rank_folder(directory, rank), error)
    return 0


def work(directory: Path, request: TaskRequest, rank: Rank) -> None:
    """Do a rank's work in this process.

    Raises:
        MillraceError: When the request is wrong or the component fails on purpose.
    """
    folder = rank_folder(directory, rank)
    place = directory if rank.makes_outputs else folder
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
        progress_file=directory / "progress.json" if rank.makes_outputs else None,
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
