"""One file that holds all a run needs to go on exactly: written whole, or not at all."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from millrace.training.profile import Spent
from millrace.training.watch import Seen

__all__ = ["Arrays", "State", "begun_with", "checkpoint_file", "restore", "save", "values"]

Arrays = list[NDArray[Any]]

_FILE = "checkpoint.npz"


class State(BaseModel):
    """Where a run is, beside its variables."""

    fingerprint: str
    """Of parameters and data; a checkpoint of another run is not used."""
    ranks: int = 1
    """How many began it."""
    step: int = 0
    """Steps taken since the beginning."""
    history: list[dict[str, float]] = Field(default_factory=list)
    """Figures of the finished epochs."""
    trained: dict[str, float] | None = None
    """Training figures of an epoch whose validation is still to come."""
    seen: Seen = Field(default_factory=Seen)
    """What `debug` saw."""
    spent: list[Spent] = Field(default_factory=list)
    """What `profile` measured."""


def checkpoint_file(folder: Path) -> Path:
    """Where the checkpoint is in its folder."""
    return folder / _FILE


def begun_with(folder: Path, fingerprint: str) -> int | None:
    """With how many ranks the run of a checkpoint began; None when there is none of this run."""
    try:
        with np.load(folder / _FILE) as stored:
            state = State.model_validate_json(str(stored["state"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # which restoring will tell
        return None
    return state.ranks if state.fingerprint == fingerprint else None


def values(variables: Sequence[Any]) -> Arrays:
    """The variables' values, copied."""
    return [variable.value.numpy() for variable in variables]


def save(folder: Path, state: State, variables: Sequence[Any], best: Arrays | None) -> None:
    """Write a checkpoint in place of the one before."""
    arrays: dict[str, Any] = {f"variable_{index}": value for index, value in enumerate(values(variables))}
    arrays |= {f"best_{index}": value for index, value in enumerate(best or ())}
    partial = folder / f".{_FILE}.partial"
    with partial.open("wb") as stream:
        np.savez(stream, state=np.array(state.model_dump_json()), **arrays)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(folder / _FILE)


def restore(folder: Path, begun: State, variables: Sequence[Any], log: logging.Logger) -> tuple[State, Arrays | None]:
    """Put a checkpoint's values into `variables`.

    Returns:
        The state and the best weights so far; the state `begun` when there is no usable checkpoint.
    """
    fresh = begun, None
    try:
        with np.load(folder / _FILE) as stored:
            state = State.model_validate_json(str(stored["state"]))
            arrays = [stored[f"variable_{index}"] for index in range(_count(stored, "variable_"))]
            best = [stored[f"best_{index}"] for index in range(_count(stored, "best_"))]
    except FileNotFoundError:
        return fresh
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("the checkpoint can't be read (%s): starting from the beginning", error)
        return fresh
    if state.fingerprint != begun.fingerprint or [item.shape for item in arrays] != [tuple(v.shape) for v in variables]:
        log.warning("the checkpoint belongs to a run with other parameters or data: starting from the beginning")
        return fresh
    for variable, value in zip(variables, arrays, strict=True):
        variable.assign(value)
    log.info("going on from step %d, epoch %d", state.step, len(state.history) + 1)
    return state, best or None


def _count(stored: Any, prefix: str) -> int:
    return sum(name.startswith(prefix) for name in stored.files)
