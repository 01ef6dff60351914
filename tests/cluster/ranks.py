"""A toy component whose hosts really talk to each other: the first sums numbers of the others over TCP."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Literal

from millrace.errors import DataError, TransientError
from millrace.runtime.context import Context, Hosts, Result
from millrace.specs import (
    Dataset,
    Distribution,
    Inputs,
    Metric,
    Metrics,
    Outputs,
    Parameters,
    Resources,
    component,
)


class RanksParameters(Parameters):
    port: int = 29600
    behaviour: Literal["well", "user", "transient_once", "crash", "vanish", "hang"] = "well"
    """What the last host does."""
    padding: str = ""


class RanksInputs(Inputs):
    words: Dataset
    more: tuple[Dataset, ...] = ()


class RanksOutputs(Outputs):
    sums: Dataset
    metrics: Metrics
    total: Metric


ranks = component(
    name="ranks",
    version="1",
    description="Sum the lengths of words on several hosts.",
    parameters=RanksParameters,
    inputs=RanksInputs,
    outputs=RanksOutputs,
    main="tests.cluster.ranks:ranks_main",
    image="toys",
    resources=Resources(cpus=0.5, memory_gib=0.25),
    distribution=Distribution(mode="ranks"),
    delegates=("training",),
)


def ranks_main(parameters: RanksParameters, inputs: RanksInputs, outputs: RanksOutputs, context: Context) -> Result:
    hosts = context.hosts
    files = sorted(inputs.words.path.iterdir())
    mine = sum(len(file.read_text()) for file in files[hosts.index :: len(hosts.names)])
    if hosts.index == 0:
        mine += sum(len(list(folder.path.iterdir())) for folder in inputs.more)
    print(f"my part is {mine}{parameters.padding}", flush=True)
    if hosts.index == len(hosts.names) - 1:
        marker = context.checkpoints / "begun"
        misbehave(parameters.behaviour, again=marker.exists(), marker=marker)
    total = sum_of_all(hosts, parameters.port, mine)
    (outputs.sums.path / "total.txt").write_text(f"{total} on {len(hosts.names)} hosts")
    return Result(metrics={"total": total}, metadata={"sums": {"objects": 1}})


def sum_of_all(hosts: Hosts, port: int, number: int) -> int:
    """Send a number to the first host, and get the sum of all back."""
    if hosts.index == 0:
        return first(hosts, port, number)
    with connected(hosts.names[0], port) as stream:
        stream.sendall(f"{number}\n".encode())
        answer = stream.makefile().readline()
    if not answer:
        raise TransientError("the first host closed the connection")
    return int(answer)


def first(hosts: Hosts, port: int, number: int) -> int:
    with socket.create_server(("", port)) as server:
        server.settimeout(30)
        others = [server.accept()[0] for _ in hosts.names[1:]]
    lines = [stream.makefile().readline() for stream in others]
    if not all(lines):
        raise TransientError("a host closed the connection")
    total = number + sum(int(line) for line in lines)
    for stream in others:
        with stream:
            stream.sendall(f"{total}\n".encode())
    return total


def connected(name: str, port: int) -> socket.socket:
    """A connection to a host that may not be there yet, nor its name."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return socket.create_connection((name, port), timeout=30)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def misbehave(behaviour: str, *, again: bool, marker: Path) -> None:
    marker.touch()
    match behaviour:
        case "user":
            raise DataError("the words are spelt wrongly: 'tobe'; allowed: real words")
        case "transient_once" if not again:
            raise TransientError("503 SlowDown")
        case "crash":
            raise RuntimeError("boom")
        case "vanish":
            os.kill(os.getppid(), signal.SIGKILL)  # the container's first process: nobody can say why
        case "hang":
            time.sleep(600)
