"""Follows a run with an eye on its health, as `debug` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from millrace.runtime.context import Context
from millrace.specs import Chart
from millrace.specs.charts import Table
from millrace.training.debug import Look, Probe
from millrace.training.diagnosis import Findings, about_classes, about_history, about_look, look_charts
from millrace.training.options.debug import Debug
from millrace.training.schedule import Row

__all__ = ["Seen", "Watch"]

_MOST = 400
"""Looks that are kept: beyond it every other one is dropped."""


class Seen(BaseModel):
    """What was seen so far, as a checkpoint keeps it."""

    steps: list[int] = Field(default_factory=list)
    looks: list[Look] = Field(default_factory=list)
    warned: dict[str, str] = Field(default_factory=dict)
    """Sentences by what they are about."""


class Watch:
    """Looks at a model now and then, warns once of each thing, and draws what it saw."""

    def __init__(self, debug: Debug, model: Any, batch: tuple[Any, ...], context: Context) -> None:
        """`batch` is what the model is looked at with; nothing is seen when it is empty."""
        self._debug = debug
        self._context = context
        self._probe = Probe(model, batch) if len(batch[1]) else None
        self._tells = context.rank is None or context.rank.index == 0

    def begin(self, seen: Seen, records: Mapping[str, int] | None) -> None:
        """Warn of what is known before the first step; `records` are the train records of each class."""
        if records:
            self._warn(seen, about_classes(self._debug, records))

    def after_step(self, seen: Seen, before: int, step: int) -> None:
        """Look, when it is time to; `before` is the step of the call before."""
        often = self._debug.every_steps
        if self._probe is None or step // often == before // often:
            return
        look = self._probe.look()
        seen.steps.append(step)
        seen.looks.append(look)
        if len(seen.steps) > _MOST:
            seen.steps, seen.looks = seen.steps[1::2], seen.looks[1::2]
        self._warn(seen, about_look(self._debug, look, step))

    def after_change(self) -> None:
        """Look at what learns now, when other weights do than before."""
        if self._probe is not None:
            self._probe.renew()

    def after_epoch(self, seen: Seen, history: Sequence[Row]) -> None:
        """Warn of what the last epochs tell."""
        self._warn(seen, about_history(self._debug, history))

    def charts(self, seen: Seen) -> tuple[Chart, ...]:
        """Plots of all looks, after the warnings."""
        rows = tuple((what, sentence) for what, sentence in seen.warned.items())
        warnings = Table(name="warnings", title="Warnings", columns=("about", "warning"), rows=rows)
        return (*((warnings,) if rows else ()), *look_charts(seen.steps, seen.looks))

    def _warn(self, seen: Seen, findings: Findings) -> None:
        for what, sentence in findings:
            if what not in seen.warned:
                seen.warned[what] = sentence
                if self._tells:
                    self._context.log.warning("%s", sentence)
