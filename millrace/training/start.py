"""Train here, or start the ranks that train: so light that a process which only starts others needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from millrace.runtime.context import Context, Result
from millrace.runtime.launcher.messages import Limits
from millrace.runtime.launcher.run import run_ranks
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.refusals import check_hosts
from millrace.training.strategy import choose_strategy

if TYPE_CHECKING:
    from millrace.training.data import Data

__all__ = ["start"]


def start(
    parameters: TrainParameters,
    inputs: TrainInputs,
    outputs: TrainOutputs,
    context: Context,
    check: Callable[[Data], None] | None = None,
) -> Result:
    """Train, save the model and report its figures; with several processes a host, or with Horovod, as ranks.

    `check` may refuse the data, where it is trained on.
    """
    hosts = context.hosts
    if context.rank is None and len(hosts.names) * hosts.processes > 1:
        check_hosts(parameters, len(hosts.names), hosts.processes)
        if choose_strategy(parameters, hosts, context.log) == "horovod":
            return run_ranks(context, parameters.peer_seconds, _limits(parameters))
    from millrace.training.train import train

    return train(parameters, inputs, outputs, context, check)


def _limits(parameters: TrainParameters) -> Limits | None:
    elastic = parameters.elastic
    if elastic is None:
        return None
    return Limits(elastic.min_workers, elastic.max_workers, elastic.restarts, elastic.wait_seconds)
