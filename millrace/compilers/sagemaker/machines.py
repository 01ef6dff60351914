"""Machine types: which one holds a task, and what it costs. The table is machines.yaml."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from millrace.errors import ConfigError, UnsupportedError, explain_os_error, explain_validation
from millrace.specs import Frozen, Resources

__all__ = ["Kind", "Machine", "Machines", "choose", "has_local_storage", "local_gb", "read_machines"]

Kind = Literal["processing", "training", "transform", "endpoint"]
_USES: Mapping[Kind, str] = {"processing": "p", "training": "t", "transform": "b", "endpoint": "e"}
_SYSTEM_GIB = 0.5  # what the machine itself needs of its memory
_LOCAL_FAMILY = re.compile(r"[a-z]+\d+[a-z]*d[a-z]*|(?:dl1|g5|g6|g7|gr6|p5|p6|trn\d).*")
"""Families of machines with storage of their own, by EC2's names: m5d, g4dn, p4de and such, and those of newer GPUs."""


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
    local: dict[str, int] = Field(default_factory=dict)
    """Storage of machines that have their own, in GB."""
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


def has_local_storage(instance: str) -> bool:
    """Whether machines of a type keep data on storage of their own: its hardware encrypts it, and takes no key."""
    parts = instance.split(".")
    return len(parts) == 3 and _LOCAL_FAMILY.fullmatch(parts[1]) is not None


def local_gb(instance: str) -> int | None:
    """Size of that storage; None where it is not known here."""
    return read_machines().local.get(instance)


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
