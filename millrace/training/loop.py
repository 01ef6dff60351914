"""The step loop: Keras' own compiled step, with checkpoints, validation and early ends around it.

All that decides what happens next is in `State` and the variables, so a run that was killed goes on
as if it had not been.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf

from millrace.errors import TaskFailedError
from millrace.runtime.context import Context, summary
from millrace.runtime.task import write_atomically
from millrace.training.checkpoint import Arrays, State, checkpoint_file, restore, save, values
from millrace.training.data import Data, training_batches
from millrace.training.events import EventWriter
from millrace.training.finetuning import Phases, frozen_epochs, last_phase, of_phase
from millrace.training.gradients import added_up
from millrace.training.models import Statistics
from millrace.training.parameters import TrainParameters
from millrace.training.profile import Clock
from millrace.training.ranks import Alone, Ranks
from millrace.training.reuse import Sources
from millrace.training.schedule import best_epoch, learning_rate, should_stop
from millrace.training.step import add_up_metrics, scatter_seeds, synchronise
from millrace.training.tensor_parallel import Split
from millrace.training.watch import Watch

__all__ = ["Run", "fit", "score"]

_TERMINATED = 128 + signal.SIGTERM
_FAREWELL_SECONDS = 1.0
"""What this rank sent last must arrive before it ends."""


@dataclass
class Run:
    """A compiled model on its way."""

    model: Any
    data: Data
    parameters: TrainParameters
    context: Context
    validation: Any
    """Dataset of the validation batches."""
    steps_per_epoch: int
    state: State
    best: Arrays | None = None
    """Weights of the best epoch, kept when they may be restored."""
    statistics: Statistics | None = None
    """Of the training pixels, when they are normalised by them."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when this process is told to stop."""
    ranks: Ranks | None = None
    """Those that train together, when there are several."""
    gather: Callable[[Iterator[Any]], None] = next
    """Takes a step between those that change the weights."""
    watch: Watch | None = None
    """Looks at the network while it learns, when that is asked for."""
    clock: Clock | None = None
    """Measures the steps, when that is asked for."""
    phases: Phases | None = None
    """What of the network learns when, when it is fine-tuned."""
    split: Split | None = None
    """The model as a part of one that several ranks hold together."""
    sources: Sources = Sources()
    """The trained models that it starts from and learns from."""

    @property
    def first(self) -> bool:
        """Whether what this process writes is kept."""
        return self.ranks is None or self.ranks.first

    @property
    def variables(self) -> list[Any]:
        """All that a step changes: weights, seeds of dropout, optimizer and running figures."""
        model = self.model
        every = (*model.variables, *model.optimizer.variables, *model.metrics_variables)
        unique = list({id(variable): variable for variable in every}.values())
        return unique if self.split is None else self.split.whole(unique)

    @property
    def finished(self) -> bool:
        """Whether no further epoch is wanted."""
        history = self.state.history
        if len(history) >= self.parameters.epochs:
            return True
        return should_stop(self.parameters.early_stopping, history[frozen_epochs(self.parameters) :])


def fit(run: Run, logs: Path) -> None:
    """Train until the last epoch or an early stop, going on from a checkpoint if there is one.

    Raises:
        TaskFailedError: When the loss is no longer a finite number.
        SystemExit: With 143 after SIGTERM; a checkpoint was written.
    """
    _build(run)
    _restore(run)
    if run.watch is not None:
        run.watch.begin(run.state.seen, None if run.data.class_weights else run.data.by_class)
    with EventWriter(logs, wanted=run.parameters.tensorboard) as events, _terminable(run):
        for row in run.state.history:
            events.write(row)
        _publish(run)
        batches = None
        while not run.finished:
            _enter_phase(run)
            if run.state.trained is None:
                batches = batches or iter(training_batches(run.data, run.parameters, run.state.step, _sharing(run)))
                run.state.trained = _train_epoch(run, batches)
                if run.ranks is not None and run.parameters.validation == "epochs":
                    _save(run)  # ranks that are told to stop while they validate hear of it at the end only
            _validate(run)
            events.write(run.state.history[-1])
    if run.best is not None:
        run.model.set_weights(run.best)


def score(run: Run, batches: Any) -> dict[str, float]:
    """Loss and accuracy over batches."""
    run.model.reset_metrics()
    test = run.model.test_function
    iterator = iter(batches)
    figures: dict[str, Any] = {}
    for _ in range(int(batches.cardinality())):
        figures = test(iterator)
        if run.ranks is None:
            _leave_when_told(run)
    if run.ranks is not None:
        _pass_on_stop(run)
        figures = add_up_metrics(run.model, run.ranks)
        _leave_when_told(run)
    return {name: float(value) for name, value in figures.items()}


def _build(run: Run) -> None:
    """Make every variable and function now, so that a checkpoint finds its place."""
    if run.phases is None:
        run.model.optimizer.build(run.model.trainable_variables)
    else:
        run.phases.build()
    nothing = tf.zeros([1, len(run.data.schema.classes)])
    run.model.compute_metrics(x=None, y=nothing, y_pred=nothing)
    _make_step(run)
    run.model.make_test_function()


def _make_step(run: Run) -> None:
    """Make the functions that take a step, for the weights that learn now."""
    every = run.parameters.gradient_accumulation_steps
    run.model.train_function = None
    if run.clock is not None:
        run.clock.expect_compiling()
    if (ranks := _sharing(run)) is not None:
        half = run.parameters.gradient_compression == "fp16"
        add = added_up if run.split is None else run.split.added_up
        add = add if run.clock is None else run.clock.timed(add)
        run.gather = synchronise(run.model, ranks, every=every, half=half, add=add)
    run.model.make_train_function()


def _enter_phase(run: Run) -> None:
    """Have the right weights learn in the next epoch."""
    epoch = len(run.state.history)
    if run.phases is not None and run.phases.enter(epoch, begins=run.state.step == epoch * run.steps_per_epoch):
        _make_step(run)
        if run.watch is not None:
            run.watch.after_change()


def _restore(run: Run) -> None:
    """Go on from a checkpoint; of several ranks the first has it, and all begin as that one does."""
    folder, begun, log = run.context.checkpoints, run.state, run.context.log
    if run.first:
        run.state, run.best = restore(folder, begun, run.variables, log)
    if run.ranks is None:
        return
    copy = checkpoint_file(run.context.scratch)
    found = run.ranks.from_first(b"yes" if run.state is not begun else b"no") == b"yes"
    content = b""
    if run.first and found:
        content = checkpoint_file(folder).read_bytes()
    elif run.first:
        save(run.context.scratch, run.state, run.variables, run.best)
        content = copy.read_bytes()
    elif run.split is not None and not found:
        run.split.give(run.variables)
    content = run.ranks.from_first(content)
    if not run.first:
        copy.write_bytes(content)
        run.state, run.best = restore(run.context.scratch, begun, run.variables, log)
        scatter_seeds(run.model, run.ranks)
    if run.split is not None and run.best is not None:
        run.best = run.split.own_weights(run.best)
    copy.unlink(missing_ok=True)


def _sharing(run: Run) -> Ranks | None:
    """Whose sums a step is made of; None leaves it to Keras."""
    return Alone() if run.ranks is None and run.parameters.gradient_accumulation_steps > 1 else run.ranks


def _train_epoch(run: Run, batches: Iterator[Any]) -> dict[str, float]:
    """Take the steps that are left of this epoch."""
    epoch = len(run.state.history)
    first, end = epoch * run.steps_per_epoch, (epoch + 1) * run.steps_per_epoch
    if run.state.step == first:
        run.model.reset_metrics()
    train, total = run.model.train_function, run.parameters.epochs * run.steps_per_epoch
    every, often = run.parameters.gradient_accumulation_steps, run.parameters.checkpoint_steps
    take = _take if run.clock is None else run.clock.take
    figures: dict[str, Any] = {}
    while run.state.step < end:
        _pass_on_stop(run)
        if (rate := _rate(run)) is not None:
            run.model.optimizer.learning_rate = rate
        before, run.state.step = run.state.step, min(run.state.step + every, end)
        for _ in range(before + 1, run.state.step):
            take(run.gather, batches)
        figures = take(train, batches)
        if run.watch is not None:
            run.watch.after_step(run.state.seen, before, run.state.step)
        _refuse_nan(run, float(figures["loss"]))
        if often is not None and run.state.step // often > before // often and run.state.step < end:
            _save(run)
        run.context.progress(run.state.step, total, "steps")
        _leave_when_told(run)
    return {name: float(value) for name, value in run.model.get_metrics_result().items()}


def _take(step: Callable[[Iterator[Any]], Any], batches: Iterator[Any]) -> Any:
    return step(batches)


def _rate(run: Run) -> float | None:
    """The learning rate of the next step, when it depends on the epochs of this phase so far."""
    history, steps = run.state.history, run.steps_per_epoch
    recent = last_phase(run.parameters, history)
    taken = run.state.step - (len(history) - len(recent)) * steps
    return learning_rate(of_phase(run.parameters, len(history)), recent, taken, steps)


def _validate(run: Run) -> None:
    trained = run.state.trained or {}
    figures = score(run, run.validation) if run.parameters.validation == "epochs" else {}
    row = {
        "epoch": float(len(run.state.history) + 1),
        **trained,
        **{f"validation_{name}": value for name, value in figures.items()},
        "learning_rate": float(run.model.optimizer.learning_rate),
    }
    if not all(map(math.isfinite, row.values())):
        raise TaskFailedError(_diverged(run, "validation loss", row.get("validation_loss", math.nan)))
    if not all(bool(tf.reduce_all(tf.math.is_finite(weight.value))) for weight in run.model.trainable_weights):
        raise TaskFailedError(_diverged(run, "weights", math.nan))  # ReLU can hide them from the loss
    run.state.history.append(row)
    run.state.trained = None
    if run.watch is not None:
        run.watch.after_epoch(run.state.seen, run.state.history)
    if run.clock is not None and (spent := run.clock.finish(len(run.state.history), run.context.log)):
        run.state.spent.append(spent)
    stopping = run.parameters.early_stopping
    if stopping is not None and stopping.restore_best and best_epoch(stopping, run.state.history) == row["epoch"] - 1:
        run.best = values(run.model.weights)
    _publish(run)
    if run.first:
        print(f"epoch={len(run.state.history)} {summary({k: v for k, v in row.items() if k != 'epoch'})}", flush=True)
    _save(run)


def _save(run: Run) -> None:
    if run.parameters.checkpoint_steps is None:
        return
    best = run.best if run.split is None or run.best is None else run.split.whole_weights(run.best)
    if run.first:
        save(run.context.checkpoints, run.state, run.variables, best)
    elif run.split is not None:
        run.split.give(run.variables)


def _publish(run: Run) -> None:
    """Write the epochs so far as JSON lines, for whoever watches this run."""
    if not run.first:
        return
    lines = (json.dumps(row) + "\n" for row in run.state.history)
    write_atomically(run.context.checkpoints / "history.jsonl", "".join(lines))


def _refuse_nan(run: Run, loss: float) -> None:
    if not math.isfinite(loss):
        raise TaskFailedError(_diverged(run, "loss", loss))


def _diverged(run: Run, what: str, value: float) -> str:
    rate = float(run.model.optimizer.learning_rate)
    tries = [f"a smaller learning_rate ({rate / 10:.1g})"]
    if run.parameters.gradient_clip_norm is None:
        tries.append("gradient_clip_norm=1")
    if run.parameters.amp:
        tries.append("amp=false")
    return (
        f"{what} became {value} in epoch {len(run.state.history) + 1}, step {run.state.step} "
        f"at learning rate {rate:g}; try {' or '.join(tries)}"
    )


def _pass_on_stop(run: Run) -> None:
    if run.ranks is not None and run.stop.is_set():
        run.ranks.wish_to_stop()


def _leave_when_told(run: Run) -> None:
    if not (run.stop.is_set() if run.ranks is None else run.ranks.stopping):
        return
    _save(run)
    if run.first:
        done = "no checkpoint" if run.parameters.checkpoint_steps is None else "checkpoint"
        run.context.log.info("told to stop: %s written at step %d", done, run.state.step)
    else:
        time.sleep(_FAREWELL_SECONDS)
    raise SystemExit(_TERMINATED)


@contextmanager
def _terminable(run: Run) -> Iterator[None]:
    """Turn SIGTERM into an orderly end after the current step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: run.stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
