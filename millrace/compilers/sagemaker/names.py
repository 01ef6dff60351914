"""Names in a definition: of the pipeline, its steps and its parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from millrace.errors import ConfigError
from millrace.specs import PipelineSpec
from millrace.targets.sagemaker import SageMaker

__all__ = ["check_step_names", "parameter_name", "parameter_names", "pipeline_name", "step_name"]

_LONGEST_STEP = 64


def pipeline_name(name: str) -> str:
    """A pipeline's name in SageMaker, which takes no underscores."""
    return re.sub("-+", "-", name.replace("_", "-")).strip("-")


def step_name(task: str, suffix: str = "") -> str:
    """Name of the step of a task, or of another one that is made for it: `deploy-model`."""
    name = task.replace("_", "-")
    return f"{name}-{suffix}" if suffix else name


def parameter_name(dotted: str) -> str:
    """Name of a runtime parameter in a definition: `train_epochs`."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", dotted)


def parameter_names(spec: PipelineSpec, target: SageMaker) -> dict[str, str]:
    """Names of the runtime parameters in the definition, by their dotted ones.

    Raises:
        ConfigError: Where two are the same, or one is that of a parameter that each definition has.
    """
    own = [name for name, value in (("role", target.role), ("bucket", target.bucket)) if value is None]
    taken: dict[str, str] = {name: f"target.{name}, which is null," for name in own}
    names: dict[str, str] = {}
    for one in spec.runtime_parameters:
        name = parameter_name(one.name)
        if name in taken:
            way = f"give a value: target.{name}=..." if name in own else "leave one of them fixed"
            raise ConfigError(f"runtime: {taken[name]} and {one.name} would both be called {name!r}: {way}")
        taken[name] = one.name
        names[one.name] = name
    return names


def check_step_names(steps: Mapping[str, Iterable[str]]) -> None:
    """Check that names of steps are short enough and given once.

    Args:
        steps: Names of steps by what they are made for: `task 'deploy'`.

    Raises:
        ConfigError: Naming the tasks, or the one whose name is too long.
    """
    owners: dict[str, str] = {}
    for owner, names in steps.items():
        for name in names:
            if len(name) > _LONGEST_STEP:
                raise ConfigError(
                    f"{owner}: its step would be called {name!r}, {len(name)} characters; allowed are "
                    f"{_LONGEST_STEP}: give a shorter name, .with_options(name=...)"
                )
            if name in owners:
                raise ConfigError(
                    f"{owners[name]} and {owner} would both have a step {name!r}: rename one, .with_options(name=...)"
                )
            owners[name] = owner
