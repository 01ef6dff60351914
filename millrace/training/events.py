"""TensorBoard event files: a handful of scalars an epoch, framed by TensorFlow's own record writer."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import tensorflow as tf

from millrace.training.schedule import Row

__all__ = ["EventWriter"]

_TAGS = {
    "train": {"loss": "epoch_loss", "accuracy": "epoch_accuracy", "learning_rate": "epoch_learning_rate"},
    "validation": {"validation_loss": "epoch_loss", "validation_accuracy": "epoch_accuracy"},
}


class EventWriter:
    """Writes `train/` and `validation/` beside each other, as Keras' own callback does.

    The files hold no clock times, so that the same run gives the same bytes: an event's time is its step.
    """

    def __init__(self, folder: Path, *, wanted: bool = True) -> None:
        """Nothing is written unless `wanted`."""
        self._writers = {}
        for channel in _TAGS if wanted else ():
            (folder / channel).mkdir(parents=True, exist_ok=True)
            writer = tf.io.TFRecordWriter(str(folder / channel / "events.out.tfevents.0.millrace"))
            writer.write(tf.compat.v1.Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
            self._writers[channel] = writer

    def write(self, row: Row) -> None:
        """Write one epoch's figures."""
        step = int(row["epoch"])
        for channel, writer in self._writers.items():
            known = [(tag, row[name]) for name, tag in _TAGS[channel].items() if name in row]
            scalars = [tf.compat.v1.Summary.Value(tag=tag, simple_value=value) for tag, value in known]
            event = tf.compat.v1.Event(wall_time=step, step=step, summary=tf.compat.v1.Summary(value=scalars))
            writer.write(event.SerializeToString())
            writer.flush()

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self._writers.values():
            writer.close()
