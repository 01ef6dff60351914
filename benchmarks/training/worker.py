"""One measured process, on the core that it is given.

Started as `python -m benchmarks.training.worker TEAM RECORDS SCRATCH INDEX CORE`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.training.cases import Team, parameters_of
from millrace.runtime.context import Hosts
from millrace.runtime.launcher.environment import read_rank

__all__ = ["HOSTS", "main"]

HOSTS = "BENCHMARK_HOSTS"
"""Environment variable: names of the hosts of a team that meets without a launcher."""


def main(team: Team, records: Path, scratch: Path, index: int, core: int) -> None:
    """Train until nobody asks for more."""
    os.sched_setaffinity(0, {core})
    from benchmarks.training.ways import TimedContext, fit, mirrored, train_by_component  # threads stay on this core

    parameters = parameters_of(team)
    if team.way == "fit":
        fit(parameters, records)
    elif team.way == "mirrored":
        mirrored(parameters, records)
    else:
        own = scratch / str(index)
        context = TimedContext(
            scratch=own, checkpoints=own / "checkpoints", cores=1, progress_file=own / "progress.json"
        )
        context.checkpoints.mkdir(parents=True)
        if team.strategy == "horovod":
            context.rank, context.hosts = read_rank(), Hosts(processes=team.processes)
        elif team.strategy == "multiworker":
            context.hosts = Hosts(names=tuple(os.environ[HOSTS].split(",")), index=index)
        train_by_component(parameters, records, context)


if __name__ == "__main__":
    given, records, scratch, index, core = sys.argv[1:]
    main(Team.model_validate_json(given), Path(records), Path(scratch), int(index), int(core))
