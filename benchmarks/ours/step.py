"""Trains a small network by the train component, which tells where the time of a step goes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Work, main
from millrace.runtime.context import Context
from millrace.specs import Lines, Logs, Metrics, Model, Records
from millrace.training.options.models import Cnn
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters
from millrace.training.train import train

_BATCH = 32
_PARTS = {"waiting for input": "input_ms", "computing": "compute_ms"}


def prepare(given: dict[str, Any]) -> Work:
    """Given `records`, `cache_mib`, `cores` and `steps`: of an epoch; the second of two is told."""
    parameters = TrainParameters(
        model=Cnn(),
        batch_size=_BATCH,
        cache_mib=given["cache_mib"],
        epochs=2,
        steps_per_epoch=given["steps"],
        validation="end",
        early_stopping=None,
        profile=True,
    )

    def work() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            result = _train(parameters, Path(given["records"]), Path(folder), given["cores"])
        [chart] = [chart for chart in result.charts if isinstance(chart, Lines) and chart.name == "time_by_epoch"]
        spent = {_PARTS[curve.name]: curve.y[-1] for curve in chart.curves if curve.name in _PARTS}
        step = sum(spent.values())
        share = spent["input_ms"] / step
        return {
            "work": _BATCH * given["steps"],
            "seconds": step * given["steps"] / 1000,
            "waiting_share": share,
            **spent,
        }

    return work


def _train(parameters: TrainParameters, records: Path, scratch: Path, cores: int) -> Any:
    folders = {name: scratch / name for name in ("model", "metrics", "logs", "checkpoints")}
    for folder in folders.values():
        folder.mkdir()
    return train(
        parameters,
        TrainInputs(records=Records(location=records)),
        TrainOutputs.model_construct(
            model=Model(location=folders["model"]),
            metrics=Metrics(location=folders["metrics"]),
            logs=Logs(location=folders["logs"]),
        ),
        Context(scratch=scratch, checkpoints=folders["checkpoints"], cores=cores, progress_file=scratch / "progress"),
    )


if __name__ == "__main__":
    main(prepare)
