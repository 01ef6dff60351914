"""A component whose ranks take steps together, without deep learning: they meet in the store of their launcher."""

from __future__ import annotations

import http.client
import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

from millrace.errors import DataError, PeerError
from millrace.runtime.context import Context, Rank, Result
from millrace.runtime.launcher.messages import Limits
from millrace.runtime.launcher.run import run_ranks
from millrace.specs import Dataset, Inputs, Metric, Metrics, Outputs, Parameters, Resources, component

__all__ = ["WalkParameters", "walk"]


class Trouble(Parameters):
    """What happens to one rank, once."""

    rank: int = 1
    step: int = 3
    kind: Literal["raise", "kill", "exit", "hang", "crash"] = "raise"


class WalkParameters(Parameters):
    steps: int = 5
    seconds: float = 0.02
    """Of each step."""
    peer_seconds: float = 20.0
    trouble: Trouble | None = None
    min_workers: int | None = None
    """None: nothing may be lost."""
    max_workers: int | None = None
    wait_seconds: float = 30.0


class WalkInputs(Inputs):
    nothing: Dataset | None = None


class WalkOutputs(Outputs):
    path: Dataset
    metrics: Metrics
    total: Metric


walk = component(
    name="walk",
    version="1",
    description="Walk in step.",
    parameters=WalkParameters,
    inputs=WalkInputs,
    outputs=WalkOutputs,
    main="tests.runtime.launcher.walkers:walk_main",
    image="toys",
    delegates=("training",),
    resources=Resources(cpus=1, memory_gib=0.1),
)


def walk_main(parameters: WalkParameters, inputs: WalkInputs, outputs: WalkOutputs, context: Context) -> Result:
    """Start the ranks, or be one."""
    if context.rank is None:
        limits = None
        if parameters.min_workers is not None:
            limits = Limits(parameters.min_workers, parameters.max_workers, 3, parameters.wait_seconds)
        return run_ranks(context, parameters.peer_seconds, limits)
    walker = _Walker(context.rank, context.checkpoints, parameters)
    walker.walk()
    (outputs.path.path / "steps.txt").write_text(f"{walker.total}\n")
    return Result(metrics={"total": float(walker.total)})


class _Walker:
    def __init__(self, rank: Rank, checkpoints: Path, parameters: WalkParameters) -> None:
        self.rank = rank
        self.checkpoint = checkpoints / "total.txt"
        self.taken = checkpoints / "taken.txt"
        self.parameters = parameters
        self.told = False
        self.total = 0
        """Sum of the numbers of all steps, each of which one rank adds."""

    def walk(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "told", True))
        own = self.checkpoint.read_text() if self.rank.index == 0 and self.checkpoint.exists() else "0 0"
        step, self.total = map(int, self.meet("begin", own)[0].split())
        print(f"from step {step} of {self.rank.size} ranks", flush=True)
        while step < self.parameters.steps:
            self.suffer(step)
            time.sleep(self.parameters.seconds)
            mine = step if step % self.rank.size == self.rank.index else 0
            words = [told.split() for told in self.meet(str(step), f"{mine} {int(self.told)}")]
            step, self.total = step + 1, self.total + sum(int(word[0]) for word in words)
            if self.rank.index == 0:
                with self.taken.open("a") as stream:
                    stream.write(f"{step - 1} {self.rank.size}\n")
                self.checkpoint.write_text(f"{step} {self.total}")
                print(f"epoch={step}", flush=True)
            if any(int(word[1]) for word in words):
                raise SystemExit(128 + signal.SIGTERM)

    def suffer(self, step: int) -> None:
        """Go through what the parameters ask for, the first time."""
        trouble, mark = self.parameters.trouble, Path(os.environ["WALK_MARK"])
        if trouble is None or (trouble.rank, trouble.step) != (self.rank.index, step) or mark.exists():
            return
        mark.touch()
        if trouble.kind == "raise":
            raise DataError("there is a hole in the road")
        if trouble.kind == "crash":
            raise RuntimeError("unforeseen")
        if trouble.kind == "exit":
            sys.stdout.flush()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL if trouble.kind == "kill" else signal.SIGSTOP)

    def meet(self, name: str, value: str) -> list[str]:
        """Give a value to all, and get all values by rank."""
        self.request("PUT", f"{name}-{self.rank.index}", value)
        patience = self.parameters.peer_seconds if name == "begin" else 2.0
        deadline = time.monotonic() + patience
        found: list[str] = []
        while len(found) < self.rank.size:
            told = self.request("GET", f"{name}-{len(found)}")
            if told is not None:
                found.append(told)
            elif time.monotonic() > deadline:
                raise PeerError(f"rank {len(found)} does not come to step {name}")
            else:
                time.sleep(0.01)
        return found

    def request(self, method: str, key: str, value: str | None = None) -> str | None:
        place = os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"], int(os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"])
        connection = http.client.HTTPConnection(*place, timeout=5)
        try:
            connection.request(method, f"/walk/{key}", value)
            response = connection.getresponse()
            content = response.read().decode()
            return content if response.status == 200 else None
        except OSError as error:
            raise PeerError(f"the store is gone: {error}") from error
        finally:
            connection.close()
