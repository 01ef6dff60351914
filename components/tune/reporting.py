"""What a search reports when it is over."""

from __future__ import annotations

from itertools import accumulate

from millrace.components.tune.spec import TuneParameters
from millrace.components.tune.study import Search
from millrace.runtime.context import Result
from millrace.specs import Chart, Curve, Lines, Scatter

__all__ = ["result"]


def result(search: Search, parameters: TuneParameters) -> Result:
    """The best value, the number of trials, and the course of the search.

    Raises:
        ValueError: When no trial is complete.
    """
    best = search.best()
    if best is None or best.value is None:
        raise ValueError("no trial is complete")
    count = len(search.own())
    return Result(
        metrics={"objective": best.value, "trials": float(count)},
        charts=_charts(search, parameters),
        metadata={"study": {"trials": count, "best": best.value}},
    )


def _charts(search: Search, parameters: TuneParameters) -> tuple[Chart, ...]:
    records = [record for record in search.records() if record.value is not None]
    pruned = [record for record in search.records() if record.state == "pruned" and record.intermediate]
    numbers = tuple(float(record.number) for record in records)
    values = tuple(record.value for record in records if record.value is not None)
    better = max if parameters.objective.direction == "maximize" else min
    curves = [Curve(name="complete", x=numbers, y=values)]
    if pruned:
        last = tuple(list(record.intermediate.values())[-1] for record in pruned)
        curves.append(Curve(name="ended early", x=tuple(float(record.number) for record in pruned), y=last))
    metric = parameters.objective.metric
    best = search.best()
    return (
        Scatter(
            name="trials",
            title="Trials",
            x_label="trial",
            y_label=metric,
            curves=tuple(curves),
            marked_x=float(best.number) if best else None,
        ),
        Lines(
            name="best_so_far",
            title="Best so far",
            x_label="trial",
            y_label=metric,
            curves=(Curve(name="best", x=numbers, y=tuple(accumulate(values, better))),),
        ),
    )
