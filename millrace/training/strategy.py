"""How several ranks come to train one model."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Literal

from millrace.errors import ConfigError
from millrace.runtime.context import Hosts
from millrace.training.parameters import TrainParameters

__all__ = ["Strategy", "choose_strategy"]

Strategy = Literal["single", "multiworker", "horovod"]
_MISSING = "Horovod is not installed: make horovod"


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
