"""How authors declare a component."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from pydantic import ValidationError

from millrace.errors import CompositionError, explain_validation
from millrace.specs.component import (
    ChartName,
    ComponentSpec,
    Distribution,
    Inputs,
    Outputs,
    Parameters,
    Resources,
    Retries,
    Service,
)
from millrace.specs.compose import Component
from millrace.specs.locations import author_line
from millrace.specs.ports import input_ports, output_ports, parameters_schema, reported_metrics

__all__ = ["component"]

ParametersT = TypeVar("ParametersT", bound=Parameters)
OutputsT = TypeVar("OutputsT", bound=Outputs)
InputsP = ParamSpec("InputsP")


def component(
    *,
    name: str,
    version: str,
    description: str,
    parameters: type[ParametersT],
    inputs: Callable[InputsP, Inputs],
    outputs: type[OutputsT],
    main: str,
    image: str,
    resources: Resources = Resources(),
    retries: Retries = Retries(),
    distribution: Distribution = Distribution(),
    charts: tuple[ChartName, ...] = (),
    delegates: tuple[Service, ...] = (),
    refuses: str | None = None,
    uncached_when: tuple[str, ...] = (),
    module: str | None = None,
) -> Component[ParametersT, InputsP, OutputsT]:
    """Declare a component. It must be bound to `name` in the module that defines `parameters`, or in `module`.

    Args:
        name: Lower-case snake case.
        version: Raise it when the same parameters and inputs no longer give the same outputs.
        description: One sentence.
        parameters: Its `Parameters` model.
        inputs: Its `Inputs` model.
        outputs: Its `Outputs` model.
        main: `module:function` that does the work in a container.
        image: Name of the image under containers/, or a full reference.
        resources: What one worker needs.
        retries: How often a transient failure is tried again.
        distribution: How the work may be divided.
        charts: Charts it always reports that a target's UI may have a form of its own for.
        delegates: Kinds of work that it can hand to a service of the target.
        refuses: `module:function` that refuses what such a service can't do, while compiling.
        uncached_when: Parameters that reach outside the pipeline when set, dotted where they are in another. A
            `sha256` beside one says what is found there: it reaches out no more.
        module: `__name__` of the calling module, when its parameters are another one's.

    Raises:
        CompositionError: At the caller's line, when it can't be declared so.
    """
    try:
        spec = ComponentSpec(
            name=name,
            version=version,
            description=description,
            main=main,
            image=image,
            parameters=parameters_schema(parameters, uncached_when),
            entry=f"{module or parameters.__module__}:{name}",
            inputs=input_ports(inputs),
            outputs=output_ports(outputs),
            metrics=reported_metrics(outputs),
            resources=resources,
            retries=retries,
            distribution=distribution,
            charts=charts,
            delegates=delegates,
            refuses=refuses,
            uncached_when=uncached_when,
        )
    except (CompositionError, ValidationError) as error:
        told = explain_validation(error) if isinstance(error, ValidationError) else str(error)
        raise CompositionError(f"component {name!r}: {told}", location=author_line()) from error
    return Component(spec, parameters, inputs, outputs)
