"""What several ranks can't train together, and models that can't be reused."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from millrace.errors import ConfigError, UnsupportedError
from millrace.specs import Distribution
from millrace.targets.kubeflow import ClusterWork
from millrace.training.options.elastic import Elastic
from millrace.training.options.images import Pixels
from millrace.training.parameters import TrainParameters

__all__ = ["check_hosts", "check_records", "check_reuse", "refuse"]


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
    if parameters.parallel.tensor > 1:
        _check_parallel(parameters, ranks)
    if parameters.elastic is not None:
        _check_elastic(parameters, parameters.elastic, ranks)
    if ranks == 1:
        return
    if parameters.strategy == "single":
        told = f"{hosts} hosts are" if processes == 1 else f"{ranks} ranks are"
        raise ConfigError(
            f"strategy=single, but {told} there, and each would train a model of its own: "
            "use strategy=auto, or one rank: hosts=1, processes=1"
        )
    if parameters.strategy == "multiworker" and processes > 1:
        raise UnsupportedError(
            f"strategy=multiworker takes one process a host, which uses all of its processors, but {processes} are "
            "asked for: use strategy=horovod or processes=1"
        )
    if parameters.scaling == "none" and parameters.batch_size < ranks:
        what = "hosts" if processes == 1 else "ranks"
        raise ConfigError(
            f"batch_size={parameters.batch_size}: the records of a step on all {what} together, but there are {ranks} "
            f"{what}: choose {ranks} or more, or have fewer of them: hosts=1, processes=1"
        )


def _check_parallel(parameters: TrainParameters, ranks: int) -> None:
    """Refuse what does not go with a model in parts."""
    tensor = parameters.parallel.tensor
    if ranks % tensor:
        raise ConfigError(
            f"parallel.tensor={tensor} must divide the number of ranks, hosts times processes: {ranks}; set processes, "
            "hosts or parallel.tensor so that it does"
        )
    reused = parameters.fine_tuning is not None or parameters.teacher is not None
    reasons = {
        "strategy=horovod or auto": parameters.strategy not in ("auto", "horovod"),
        "sharding=data or auto, since ranks that hold one model take the same records": parameters.sharding == "file",
        "xla=false: within a step ranks talk to each other": parameters.xla,
        "amp_dtype=bfloat16: with float16 ranks would skip different steps": (
            parameters.amp and parameters.amp_dtype != "bfloat16"
        ),
        "a model that starts anew, with model.weights at most: neither fine_tuning nor a teacher": reused,
        "debug=null, which would see parts of layers only": parameters.debug is not None,
        "buckets=null: its layers are cut for one length": parameters.buckets is not None,
    }
    for needed, missing in reasons.items():
        if missing:
            raise UnsupportedError(f"parallel.tensor={tensor} needs {needed}")


def check_reuse(parameters: TrainParameters, inputs: Collection[str]) -> None:
    """Refuse models to start or to learn from that are named twice or not at all, and settings they leave no use for.

    Args:
        parameters: With `fine_tuning` and `teacher`.
        inputs: Names of the inputs that are given.

    Raises:
        ConfigError: Telling what to leave out.
    """
    tuning, teacher = parameters.fine_tuning, parameters.teacher
    reused = {"base", "teacher"}.intersection(inputs) or [one for one in (tuning, teacher) if one and one.model]
    if parameters.buckets is not None and reused:
        raise ConfigError("buckets is set, but a trained model takes texts of one length: leave buckets out")
    for name, port, choice in (("fine_tuning", "base", tuning), ("teacher", "teacher", teacher)):
        if choice is not None and choice.model is not None and port in inputs:
            raise ConfigError(
                f"{name}.model={choice.model}, but the input {port!r} is a model, too: leave one of them out"
            )
    if teacher is not None and teacher.model is None and "teacher" not in inputs:
        raise ConfigError("teacher.model is missing: name a trained model there, or give one as the input `teacher`")
    if "base" in inputs or (tuning is not None and tuning.model is not None):
        if parameters.pixels != Pixels():
            raise ConfigError(
                "pixels is set, but training starts from a trained model, which brings its own: leave pixels out"
            )
        if (weights := getattr(parameters.model, "weights", None)) is not None:
            raise ConfigError(
                f"model.weights={weights}, but training starts from a trained model, which brings all weights: leave "
                "model.weights out, or leave out the trained model and start from these weights"
            )
    elif tuning is not None:
        _check_weights(parameters, tuning.head)


def _check_weights(parameters: TrainParameters, head: str) -> None:
    model = parameters.model
    if model.kind in ("cnn", "mlp") or getattr(model, "weights", "in its function") is None:
        raise ConfigError(
            f"fine_tuning has nothing to start from: model.kind={model.kind} has random weights; name a trained model "
            "as fine_tuning.model, give one as the input `base`, or choose a model with pretrained weights"
        )
    if head == "keep":
        raise ConfigError(
            "fine_tuning.head=keep: pretrained weights of `model` come without a head: use head=new or auto"
        )


def _check_elastic(parameters: TrainParameters, elastic: Elastic, ranks: int) -> None:
    """Refuse what can't go on with fewer ranks."""
    if ranks == 1 or elastic.min_workers > ranks:
        raise ConfigError(
            f"elastic.min_workers={elastic.min_workers}, with {ranks} rank{'s' if ranks > 1 else ''} (hosts times "
            "processes) none can be lost: raise processes or hosts"
            f"{', lower elastic.min_workers' if ranks > 1 else ''}, or leave elastic out"
        )
    if parameters.checkpoint_steps is None:
        raise ConfigError(
            "elastic goes on from checkpoints, but checkpoint_steps=null writes none: use checkpoint_steps=200"
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
    chosen = TrainParameters.model_validate(parameters)
    check_hosts(chosen, work.hosts, work.processes)
    if (tensor := chosen.parallel.tensor) > 1 and (ports := sorted({"base", "teacher"}.intersection(inputs))):
        raise UnsupportedError(f"parallel.tensor={tensor} needs a model that starts anew: leave out {', '.join(ports)}")
    check_reuse(chosen, inputs)
