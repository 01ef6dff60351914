"""Train a model on record files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from pydantic import ValidationError

from millrace.errors import ConfigError, DataError, TaskFailedError, explain_validation
from millrace.runtime.context import Context, Result
from millrace.specs import Curve, Lines, Study
from millrace.specs.dotted import merged
from millrace.training.checkpoint import State
from millrace.training.data import Data, evaluation_batches, inspect, pixel_statistics, training_batches
from millrace.training.export import export
from millrace.training.loop import Run, fit, score
from millrace.training.models import build_model, load_pretrained
from millrace.training.options.models import Application, Custom
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.ranks import Ranks
from millrace.training.refusals import check_hosts, check_records
from millrace.training.schedule import best_epoch, make_optimizer
from millrace.training.strategy import Strategy, choose_strategy
from millrace.training.watch import Watch

__all__ = ["train"]


def train(parameters: TrainParameters, inputs: TrainInputs, outputs: TrainOutputs, context: Context) -> Result:
    """Train, save the model and report its figures."""
    if inputs.study is not None:
        parameters = _with_best(parameters, inputs.study, context)
    check_hosts(parameters, len(context.hosts.names), context.hosts.processes)
    strategy = choose_strategy(parameters, context.hosts, context.log)
    if strategy == "single" or len(context.hosts.names) * context.hosts.processes == 1:
        data = inspect(inputs.records.path, parameters)
        _configure_tensorflow(parameters, context.cores)
        return _train(_prepare(parameters, data, context), outputs)
    _configure_tensorflow(parameters, context.cores)
    ranks = _connect(strategy, parameters, context)
    with ranks.ending_together():
        data = inspect(inputs.records.path, parameters)
        run = _prepare(parameters, data, context, ranks)
        ranks.check_same(run.state.fingerprint, "parameters or records")
        check_records(parameters, apart=data.files is not None)
        return _train(run, outputs)


def _connect(strategy: Strategy, parameters: TrainParameters, context: Context) -> Ranks:
    """Meet the other ranks; each module imports what only it needs."""
    if strategy == "multiworker":
        from millrace.training import collectives

        return collectives.connect(context.hosts, parameters.peer_seconds, context.log)
    from millrace.training import horovod

    if context.rank is None:
        raise TaskFailedError("strategy=horovod: nobody has started this process as one of the ranks")
    return horovod.connect(parameters.peer_seconds, context.log)


def _train(run: Run, outputs: TrainOutputs) -> Result:
    parameters, data = run.parameters, run.data
    fit(run, outputs.logs.path)
    history, chosen = run.state.history, _chosen(run)
    row = history[chosen]
    metrics = {"accuracy": row["validation_accuracy"], "loss": row["validation_loss"], "epochs": float(len(history))}
    if parameters.test_steps:
        figures = score(run, evaluation_batches(data, "test", parameters, parameters.test_steps, run.ranks))
        metrics |= {f"test_{name}": value for name, value in figures.items()}
    if run.ranks is not None:
        run.ranks.leave()
    if run.context.rank is not None and not run.context.rank.makes_outputs:
        return Result(metrics=metrics)
    card = export(_plain(run), _architecture(parameters), data.schema, outputs.model.path, data.records)
    return Result(
        metrics=metrics,
        charts=(*_charts(history, chosen), *(run.watch.charts(run.state.seen) if run.watch else ())),
        metadata={"model": card.facts()},
    )


def _with_best(parameters: TrainParameters, study: Study, context: Context) -> TrainParameters:
    path = study.path / "best.json"
    try:
        best = json.loads(path.read_bytes())["parameters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the best.json of a study: {error}") from error
    context.log.info("from the study: %s", ", ".join(f"{name}={value}" for name, value in best.items()))
    try:
        return TrainParameters.model_validate(merged(parameters.model_dump(mode="json"), best))
    except ValidationError as error:
        raise ConfigError(
            f"the study's best parameters do not fit: {explain_validation(error, TrainParameters, prefix='train')}"
        ) from error


def _configure_tensorflow(parameters: TrainParameters, cores: int) -> None:
    with contextlib.suppress(RuntimeError):  # another task in this process has started TensorFlow
        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(max(2, cores))
    for gpu in tf.config.list_physical_devices("GPU"):
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(gpu, True)
    if parameters.deterministic:
        tf.config.experimental.enable_op_determinism()


def _prepare(parameters: TrainParameters, data: Data, context: Context, ranks: Ranks | None = None) -> Run:
    """A compiled model with all that its training needs."""
    statistics = pixel_statistics(data) if parameters.pixels.normalise == "featurewise" else None
    model = build_model(parameters, data.schema, policy=_policy(parameters), statistics=statistics)
    load_pretrained(model, parameters.model, data.schema, context.scratch)
    if isinstance(parameters.model, Custom):
        _refuse_unsaveable(model, parameters.model, context.scratch)
    steps = parameters.steps_per_epoch or math.ceil(data.sizes["train"] / parameters.batch_size)
    model.compile(
        optimizer=make_optimizer(parameters, steps),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=parameters.label_smoothing),
        metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=parameters.xla,
    )
    context.log.info(
        "%s with %d weights, %d train records, %d steps an epoch",
        _architecture(parameters), model.count_params(), data.sizes["train"], steps,
    )  # fmt: skip
    return Run(
        model=model,
        data=data,
        parameters=parameters,
        context=context,
        validation=evaluation_batches(data, "validation", parameters, parameters.validation_steps, ranks),
        steps_per_epoch=steps,
        state=State(fingerprint=_fingerprint(parameters, data)),
        statistics=statistics,
        ranks=ranks,
        watch=_watch(parameters, data, model, context, ranks),
    )


def _watch(parameters: TrainParameters, data: Data, model: Any, context: Context, ranks: Ranks | None) -> Watch | None:
    if parameters.debug is None:
        return None
    part = None if ranks is None else ranks.part(parameters.batch_size)
    return Watch(parameters.debug, model, next(iter(training_batches(data, parameters, 0, part))), context)


def _policy(parameters: TrainParameters) -> str:
    if not parameters.amp:
        return "float32"
    return "mixed_float16" if tf.config.list_physical_devices("GPU") else "mixed_bfloat16"


def _plain(run: Run) -> Any:
    """The trained model in float32 and without its optimizer, as it is saved."""
    weights = run.model.get_weights()
    plain = build_model(run.parameters, run.data.schema, policy="float32", statistics=run.statistics)
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


def _fingerprint(parameters: TrainParameters, data: Data) -> str:
    how = {"elastic", "strategy", "peer_seconds"}  # makes no difference to what is trained
    facts = [parameters.model_dump(mode="json", exclude=how), data.schema.model_dump(mode="json"), data.sizes]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _architecture(parameters: TrainParameters) -> str:
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
    epochs = tuple(row["epoch"] for row in history)

    def lines(name: str, title: str) -> Lines:
        curves = (
            Curve(name="train", x=epochs, y=tuple(row[name] for row in history)),
            Curve(name="validation", x=epochs, y=tuple(row[f"validation_{name}"] for row in history)),
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
