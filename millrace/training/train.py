"""Train a model on record files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from millrace.errors import ConfigError, TaskFailedError
from millrace.runtime.context import Context, Result
from millrace.specs import Chart, Curve, Lines
from millrace.training.checkpoint import Arrays, State, begun_with
from millrace.training.data import Data, evaluation_batches, inspect, pixel_statistics, training_batches
from millrace.training.distillation import distil
from millrace.training.export import export
from millrace.training.finetuning import network, of_phase, phases
from millrace.training.loop import Run, fit, score
from millrace.training.models import Statistics, build_model, load_pretrained
from millrace.training.options.models import Application, Custom
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.profile import Clock, time_chart
from millrace.training.ranks import Ranks
from millrace.training.refusals import check_hosts, check_records
from millrace.training.reuse import Sources, find_all, with_inputs
from millrace.training.samples import sample_answers
from millrace.training.schedule import best_epoch, make_optimizer, scaled
from millrace.training.strategy import Strategy, choose_strategy, hosts_of
from millrace.training.studies import with_best
from millrace.training.tensor_parallel import loss_and_accuracy, split_model
from millrace.training.watch import Watch

__all__ = ["train"]


def train(
    parameters: TrainParameters,
    inputs: TrainInputs,
    outputs: TrainOutputs,
    context: Context,
    check: Callable[[Data], None] | None = None,
) -> Result:
    """Train, save the model and report its figures; `check` may refuse the data of all ranks."""
    parameters = with_best(parameters, inputs.study, context.log, "train")
    parameters = with_inputs(parameters, inputs, context.log)
    hosts = hosts_of(parameters, context)
    check_hosts(parameters, len(hosts.names), hosts.processes)
    strategy = choose_strategy(parameters, hosts, context.log)
    if strategy == "single" or len(hosts.names) * hosts.processes == 1:
        data = _inspected(inputs, parameters, check)
        _configure_tensorflow(parameters, context.cores)
        return _train(_prepare(parameters, data, context, find_all(parameters, inputs, context)), outputs)
    _configure_tensorflow(parameters, context.cores)
    ranks = _connect(strategy, parameters, context)
    with ranks.ending_together():
        data = _inspected(inputs, parameters, check, ranks)
        run = _prepare(parameters, data, context, find_all(parameters, inputs, context), ranks)
        ranks.check_same(run.state.fingerprint, "parameters or records")
        check_records(parameters, apart=data.files is not None)
        return _train(run, outputs)


def _inspected(
    inputs: TrainInputs, parameters: TrainParameters, check: Callable[[Data], None] | None, ranks: Ranks | None = None
) -> Data:
    data = inspect(inputs.records.path, parameters, ranks)
    if check is not None:
        check(data)
    return data


def _connect(strategy: Strategy, parameters: TrainParameters, context: Context) -> Ranks:
    """Meet the other ranks; each module imports what only it needs."""
    if strategy == "multiworker":
        from millrace.training import collectives

        return collectives.connect(context.hosts, parameters.peer_seconds, context.log)
    from millrace.training import horovod, tensor_parallel_ranks

    if context.rank is None:
        raise TaskFailedError("strategy=horovod: nobody has started this process as one of the ranks")
    if (tensor := parameters.parallel.tensor) > 1:
        return tensor_parallel_ranks.connect(context.rank, tensor, parameters.peer_seconds, context.log)
    return horovod.connect(parameters.peer_seconds, context.log)


def _train(run: Run, outputs: TrainOutputs) -> Result:
    parameters, data = run.parameters, run.data
    fit(run, outputs.logs.path)
    history, chosen = run.state.history, _chosen(run)
    row = history[chosen]
    if parameters.validation == "end":
        row |= {f"validation_{name}": value for name, value in score(run, run.validation).items()}
    metrics = {"accuracy": row["validation_accuracy"], "loss": row["validation_loss"], "epochs": float(len(history))}
    if parameters.test_steps != 0:
        figures = score(run, evaluation_batches(data, "test", parameters, parameters.test_steps, run.ranks))
        metrics |= {f"test_{name}": value for name, value in figures.items()}
    weights = run.model.get_weights()
    weights = weights if run.split is None else run.split.whole_weights(weights)
    if run.ranks is not None:
        run.ranks.leave()
    if run.context.rank is not None and not run.context.rank.makes_outputs:
        return Result(metrics=metrics)
    plain = _plain(run, weights)
    card = export(plain, _architecture(parameters, run.sources), data.schema, outputs.model.path, data.records)
    return Result(
        metrics=metrics,
        charts=(
            *_charts(history, chosen),
            *(run.watch.charts(run.state.seen) if run.watch else ()),
            *time_chart(run.state.spent),
            *_samples(run, plain),
        ),
        metadata={"model": card.facts()},
    )


def _samples(run: Run, plain: Any) -> tuple[Chart, ...]:
    """Answers to a few test records, which are logged as well."""
    if not run.parameters.sample_predictions or not run.first:
        return ()
    table = sample_answers(plain, run.data, run.parameters.sample_predictions)
    for title, kind, answer, probability in table.rows:
        run.context.log.info("sample: %s: answer %s (%s), class %s", title, answer, probability, kind)
    return (table,)


def _configure_tensorflow(parameters: TrainParameters, cores: int) -> None:
    with contextlib.suppress(RuntimeError):  # another task in this process has started TensorFlow
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(max(2, cores))
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if parameters.deterministic:
        tf.config.experimental.enable_op_determinism()


def _prepare(
    parameters: TrainParameters, data: Data, context: Context, sources: Sources, ranks: Ranks | None = None
) -> Run:
    """A compiled model with all that its training needs."""
    fingerprint = _fingerprint(parameters, data, sources)
    begun = begun_with(context.checkpoints, fingerprint) or (ranks.count if ranks else 1)
    begun = begun if ranks is None else int(ranks.from_first(str(begun).encode()))
    parameters = scaled(parameters, begun, data.sizes["train"])
    statistics = pixel_statistics(data, ranks) if parameters.pixels.normalise == "featurewise" else None
    model = _network(parameters, data, sources, _policy(parameters), statistics)
    load_pretrained(model, parameters.model, data.schema, context.scratch)
    if isinstance(parameters.model, Custom):
        _refuse_unsaveable(model, parameters.model, context.scratch)
    steps = parameters.steps_per_epoch or math.ceil(data.sizes["train"] / parameters.batch_size)
    updates = math.ceil(steps / parameters.gradient_accumulation_steps)
    split = split_model(model, parameters, ranks)
    model = model if split is None else split.model
    loss, accuracy = loss_and_accuracy(split, parameters.label_smoothing)
    model.compile(
        optimizer=make_optimizer(of_phase(parameters, 0), updates),
        loss=loss,
        metrics=[accuracy],
        jit_compile=parameters.xla,
    )
    if split is not None:
        split.fit_optimizer()
    stages = phases(model, parameters, updates)
    if parameters.teacher is not None and sources.teacher is not None:
        distil(model, parameters.teacher, sources.teacher, data.schema)
    context.log.info(
        "%s with %d weights, %d train records, %d steps an epoch",
        _architecture(parameters, sources), model.count_params(), data.sizes["train"], steps,
    )  # fmt: skip
    return Run(
        model=model,
        data=data,
        parameters=parameters,
        context=context,
        validation=evaluation_batches(data, "validation", parameters, parameters.validation_steps, ranks),
        steps_per_epoch=steps,
        state=State(fingerprint=fingerprint, ranks=begun),
        statistics=statistics,
        ranks=ranks,
        watch=_watch(parameters, data, model, context, ranks),
        clock=Clock() if parameters.profile else None,
        phases=stages,
        split=split,
        sources=sources,
    )


def _network(
    parameters: TrainParameters, data: Data, sources: Sources, policy: str, statistics: Statistics | None
) -> Any:
    if sources.base is not None:
        return network(parameters, sources.base, data.schema, policy)
    return build_model(parameters, data.schema, policy=policy, statistics=statistics)


def _watch(parameters: TrainParameters, data: Data, model: Any, context: Context, ranks: Ranks | None) -> Watch | None:
    if parameters.debug is None:
        return None
    one = parameters.model_copy(update={"cache_mib": 0, "shuffle_buffer": 1})  # not all records for one batch
    first = next(iter(training_batches(data, one, 0, ranks)))
    return Watch(parameters.debug, model, first if ranks is None else first[0], context)


def _policy(parameters: TrainParameters) -> str:
    if not parameters.amp:
        return "float32"
    auto = "float16" if tf.config.list_physical_devices("GPU") else "bfloat16"
    return f"mixed_{auto if parameters.amp_dtype == 'auto' else parameters.amp_dtype}"


def _plain(run: Run, weights: Arrays) -> Any:
    """The trained model in float32 and without its optimizer, as it is saved."""
    parameters = run.parameters.model_copy(update={"buckets": None})
    plain = _network(parameters, run.data, run.sources, "float32", run.statistics)
    plain.set_weights(weights)
    return plain


def _refuse_unsaveable(model: Any, choice: Custom, scratch: Path) -> None:
    """Find out before training whether a custom model can be loaded without its code."""
    path = scratch / "custom.keras"
    try:
        model.save(path)
        keras.models.load_model(path)
    except (TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"model.function={choice.function} gives a model that can't be loaded without its code: {reason}; "
            f"build it from stock Keras layers, without Lambda"
        ) from error


def _fingerprint(parameters: TrainParameters, data: Data, sources: Sources) -> str:
    how = {
        "debug",
        "elastic",
        "profile",
        "strategy",
        "peer_seconds",
        "sharding",
        "parallel",
    }  # makes no difference to what is trained
    facts = [parameters.model_dump(mode="json", exclude=how), data.schema.model_dump(mode="json"), data.sizes]
    if data.files is not None:
        facts.append([(file.name, file.records) for file in data.files["train"]])
    facts.append(sources.digests)
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _architecture(parameters: TrainParameters, sources: Sources) -> str:
    if sources.base is not None:
        return sources.base.name
    model = parameters.model
    if isinstance(model, Application):
        return model.name
    return model.function if isinstance(model, Custom) else model.kind


def _chosen(run: Run) -> int:
    """Index of the epoch whose weights are saved."""
    stopping = run.parameters.early_stopping
    if stopping is None or not stopping.restore_best:
        return len(run.state.history) - 1
    return best_epoch(stopping, run.state.history)


def _charts(history: list[dict[str, float]], chosen: int) -> tuple[Lines, ...]:
    scored = [row for row in history if "validation_loss" in row]
    epochs, validated = (tuple(row["epoch"] for row in rows) for rows in (history, scored))

    def lines(name: str, title: str) -> Lines:
        curves = (
            Curve(name="train", x=epochs, y=tuple(row[name] for row in history)),
            Curve(name="validation", x=validated, y=tuple(row[f"validation_{name}"] for row in scored)),
        )
        return Lines(
            name=f"{name}_by_epoch",
            title=title,
            x_label="epoch",
            y_label=name,
            curves=curves,
            marked_x=epochs[chosen],
        )

    return lines("loss", "Loss"), lines("accuracy", "Accuracy")
