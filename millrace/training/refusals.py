"""What several ranks can't train together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from millrace.errors import ConfigError, UnsupportedError
from millrace.specs import Distribution
from millrace.targets.kubeflow import ClusterWork
from millrace.training.options.elastic import Elastic
from millrace.training.parameters import TrainParameters

__all__ = ["check_hosts", "check_records", "refuse"]


def check_hosts(parameters: TrainParameters, hosts: int, processes: int) -> None:
    """Refuse what several hosts can't train together.

    Args:
        parameters: How they train.
        hosts: How many there are.
        processes: Ranks of each.

    Raises:
        ConfigError: For parameters that contradict the number of hosts.
        UnsupportedError: For what only one host can do.
    """
    ranks = hosts * processes
    if parameters.elastic is not None:
        _check_elastic(parameters, parameters.elastic, ranks)
    if ranks == 1:
        return
    if parameters.strategy == "single":
        told = f"{hosts} hosts are" if processes == 1 else f"{ranks} ranks are"
        raise ConfigError(
            f"strategy=single, but {told} there, and each would train a model of its own: "
            "use strategy=auto or Distribution(hosts=1)"
        )
    if parameters.strategy == "multiworker" and processes > 1:
        raise UnsupportedError(
            f"strategy=multiworker takes one process a host, which uses all of its processors, but {processes} are "
            "asked for: use strategy=horovod or Distribution(processes=1)"
        )
    if parameters.xla:
        raise UnsupportedError("xla=true works on one host only: a compiled step can't talk to other hosts")
    if parameters.batch_size < ranks:
        what = "hosts" if processes == 1 else "ranks"
        raise ConfigError(
            f"batch_size={parameters.batch_size}: the records of a step on all {what} together, but there are {ranks} "
            f"{what}: choose {ranks} or more"
        )


def _check_elastic(parameters: TrainParameters, elastic: Elastic, ranks: int) -> None:
    """Refuse what can't go on with fewer ranks."""
    if ranks == 1 or elastic.min_workers > ranks:
        raise ConfigError(
            f"elastic.min_workers={elastic.min_workers}, with {ranks} rank{'s' if ranks > 1 else ''} (hosts times "
            "processes) none can be lost: have more of them, or leave elastic out"
        )
    if parameters.strategy not in ("auto", "horovod"):
        raise UnsupportedError(f"elastic: strategy={parameters.strategy} can't lose a host: use strategy=horovod")
    if parameters.parallel.tensor > 1:
        raise UnsupportedError(
            f"elastic: with parallel.tensor={parameters.parallel.tensor} each rank holds a part of the model, which is "
            "lost with it: leave one of them out"
        )
    check_records(parameters, apart=parameters.sharding == "file")


def check_records(parameters: TrainParameters, *, apart: bool) -> None:
    """Refuse elastic training where a lost host takes records with it.

    Args:
        parameters: With `elastic`.
        apart: Whether hosts hold records of their own.

    Raises:
        UnsupportedError: Then.
    """
    if parameters.elastic is not None and apart:
        raise UnsupportedError(
            "elastic: the hosts hold different record files (sharding=file), and a lost one would take its own with "
            "it: give every host all records, or leave elastic out"
        )


def refuse(parameters: Mapping[str, Any], inputs: Collection[str], work: ClusterWork | Distribution) -> None:
    """The same while compiling, before machines are paid for.

    Raises:
        UserError: As `check_hosts` does.
    """
    check_hosts(TrainParameters.model_validate(parameters), work.hosts, work.processes)
