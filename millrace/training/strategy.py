"""How several ranks come to train one model."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal

from millrace.errors import ConfigError, UnsupportedError
from millrace.runtime.context import Context, Hosts
from millrace.training.parameters import TrainParameters

__all__ = ["Strategy", "choose_strategy", "hosts_of"]

Strategy = Literal["single", "multiworker", "horovod"]
_MISSING = "Horovod is not installed: make horovod"


def hosts_of(parameters: TrainParameters, context: Context) -> Hosts:
    """The machines that train, and the ranks on each; ranks of mpirun count as those of one host.

    Args:
        parameters: Which may ask for what such ranks can't do.
        context: With the rank that this process is, if it is one.

    Raises:
        ConfigError: When mpirun has started ranks of which the task says something else, or there is no Horovod.
        UnsupportedError: When they are to be started anew.
    """
    hosts, rank = context.hosts, context.rank
    if rank is None or rank.launched:
        return hosts
    told = f"mpirun has started {rank.size} ranks"
    if len(hosts.names) * hosts.processes not in (1, rank.size):
        raise ConfigError(
            f"{told}, but the task is for {len(hosts.names)} hosts with {hosts.processes} processes each: start as "
            "many, or leave hosts and processes out"
        )
    if parameters.elastic is not None:
        raise UnsupportedError(f"elastic: {told}, and ends them all when one is lost: leave elastic or mpirun out")
    if find_spec("horovod") is None:
        raise ConfigError(f"{told}. {_MISSING}")
    return Hosts(processes=rank.size)


def choose_strategy(parameters: TrainParameters, hosts: Hosts, log: logging.Logger) -> Strategy:
    """What carries the numbers between ranks.

    Args:
        parameters: Which strategy is asked for.
        hosts: The machines, and the ranks on each.
        log: Told when less than was asked for can be had.

    Raises:
        ConfigError: When Horovod is asked for, and there is none.
    """
    installed = find_spec("horovod") is not None
    if parameters.strategy == "horovod" and not installed:
        raise ConfigError(f"strategy=horovod: {_MISSING}, or use strategy=auto")
    if (tensor := parameters.parallel.tensor) > 1 and not installed:
        raise ConfigError(f"parallel.tensor={tensor}: {_MISSING}, or use parallel.tensor=1")
    if parameters.strategy != "auto":
        return parameters.strategy
    if len(hosts.names) * hosts.processes == 1:
        return "single"
    if installed:
        return "horovod"
    if hosts.processes > 1:
        log.warning("%s. One process a host trains instead of %d", _MISSING, hosts.processes)
    return "multiworker" if len(hosts.names) > 1 else "single"
