"""A component that pretends to train: it counts epochs, keeps checkpoints, and ends as SIGTERM wants."""

from __future__ import annotations

import os
import signal
import time

from pydantic import JsonValue

from millrace.errors import DataError
from millrace.runtime.context import Context, Result
from millrace.specs import Dataset, Inputs, Logs, Metric, Metrics, Model, Outputs, Parameters, Resources, component


class Shape(Parameters):
    kind: str = "cnn"
    units: int = 16


class LearnParameters(Parameters):
    epochs: int = 2
    rate: float = 0.1
    name: str = "one"
    shape: Shape = Shape()
    seconds: float = 0.0
    """Of each epoch."""
    fail: bool = False
    link: bool = False


class LearnInputs(Inputs):
    words: Dataset
    before: Model | None = None
    more: tuple[Dataset, ...] = ()


class LearnOutputs(Outputs):
    model: Model
    metrics: Metrics
    logs: Logs
    accuracy: Metric
    epochs: Metric


learn = component(
    name="learn",
    version="1",
    description="Pretend to train.",
    parameters=LearnParameters,
    inputs=LearnInputs,
    outputs=LearnOutputs,
    main="tests.runtime.sagemaker.learner:learn_main",
    image="toys",
    delegates=("training",),
    resources=Resources(cpus=1, memory_gib=0.1),
)


def learn_main(parameters: LearnParameters, inputs: LearnInputs, outputs: LearnOutputs, context: Context) -> Result:
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    checkpoint = context.checkpoints / "epoch"
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if done:
        print(f"going on from epoch {done}", flush=True)
    events = outputs.logs.path / "events.out.tfevents.0"
    for epoch in range(done + 1, parameters.epochs + 1):
        with events.open("a") as stream:
            stream.write(f"{epoch}\n")
        print(f"epoch={epoch} accuracy={epoch / 10:g}", flush=True)
        deadline = time.monotonic() + parameters.seconds
        while time.monotonic() < deadline and not stopped:
            time.sleep(0.02)
        checkpoint.write_text(str(epoch))
        if stopped:
            raise SystemExit(128 + signal.SIGTERM)
    if parameters.fail:
        raise DataError("x" * 2000)
    hosts = f"{context.hosts.index} of {','.join(context.hosts.names)} x {context.hosts.processes}"
    heard = [file.read_text() for file in sorted(inputs.words.path.iterdir())]
    before = (inputs.before.path / "weights").read_text() if inputs.before else ""
    more = [path.name for one in inputs.more for path in sorted(one.path.iterdir())]
    facts = [parameters.model_dump_json(), hosts, " ".join(heard), before, " ".join(more)]
    facts.append(os.environ.get("HOROVOD_GLOO_IFACE", ""))
    (outputs.model.path / "weights").write_text("\n".join(facts))
    if parameters.link:
        (outputs.model.path / "latest").symlink_to("weights")
    metadata: dict[str, dict[str, JsonValue]] = {
        "model": {"format": "keras", "classes": 2, "parameters": 1, "bytes": 1}
    }
    return Result(metrics={"accuracy": 0.9, "epochs": float(parameters.epochs)}, metadata=metadata)
