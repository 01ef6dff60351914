"""Machine types: which one holds a task, and what it costs. The table is machines.yaml."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import TypeAdapter, ValidationError, field_validator

from millrace.errors import ConfigError, UnsupportedError, explain_os_error, explain_validation
from millrace.specs import Frozen, Resources

__all__ = ["Kind", "Machine", "Machines", "choose", "read_machines"]

Kind = Literal["processing", "training", "transform", "endpoint"]
_USES: Mapping[Kind, str] = {"processing": "p", "training": "t", "transform": "b", "endpoint": "e"}
_SYSTEM_GIB = 0.5  # what the machine itself needs of its memory


class Machine(NamedTuple):
    """One machine type."""

    cpus: int
    memory_gib: float
    gpus: int
    price: float
    """An hour, on demand."""
    uses: str


class Machines(Frozen):
    """A table of machine types and prices."""

    region: str
    currency: str
    read: date
    source: str
    storage: float
    """A GiB and month of a machine's volume."""
    spot: tuple[float, float]
    """Part of the on-demand price that spot machines cost, at best and at worst."""
    machines: dict[str, Machine]

    @field_validator("machines", mode="before")
    @classmethod
    def _rows(cls, given: object) -> object:
        rows: TypeAdapter[dict[str, Machine]] = TypeAdapter(dict[str, Machine])
        return rows.validate_python(given)


def choose(resources: Resources, kind: Kind) -> str:
    """The cheapest machine type that holds a task.

    Args:
        resources: What one worker of the task needs.
        kind: What the machine is for.

    Raises:
        UnsupportedError: When none of the table is large enough.
    """
    table = read_machines().machines
    fitting = [
        (machine.price, name)
        for name, machine in table.items()
        if _USES[kind] in machine.uses
        and machine.cpus >= resources.cpus
        and machine.memory_gib >= resources.memory_gib + _SYSTEM_GIB
        and (machine.gpus >= resources.gpus if resources.gpus else machine.gpus == 0)
    ]
    if not fitting:
        raise UnsupportedError(
            f"no machine type known here for {kind} has {resources.cpus:g} processors, {resources.memory_gib:g} GiB of "
            f"memory and {resources.gpus} GPUs: ask for less, or name one, target.tasks.TASK.instance=ml.TYPE.SIZE"
        )
    return min(fitting)[1]


@functools.cache
def read_machines(path: Path | None = None) -> Machines:
    """The table, or one of the user's own.

    Raises:
        ConfigError: When the user's own can't be read.
    """
    own = Path(str(files("millrace.compilers.sagemaker"))) / "machines.yaml"
    try:
        content: Any = yaml.safe_load((path or own).read_text(encoding="utf-8"))
        return Machines.model_validate(content)
    except OSError as error:
        raise ConfigError(f"cost.machines: {explain_os_error(error)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"cost.machines: {path} is no YAML: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"cost.machines: {path}: {explain_validation(error)}") from error
