"""Parameters that an earlier search found."""

from __future__ import annotations

import json
import logging
from typing import TypeVar

from pydantic import ValidationError

from millrace.errors import ConfigError, DataError, explain_validation
from millrace.specs import Parameters, Study
from millrace.specs.dotted import merged

__all__ = ["with_best"]

ParametersT = TypeVar("ParametersT", bound=Parameters)


def with_best(parameters: ParametersT, study: Study | None, log: logging.Logger, prefix: str) -> ParametersT:
    """The parameters with the best ones of a study put over them; `prefix` stands before their names in messages.

    Raises:
        DataError: When the study has none.
        ConfigError: When they do not fit.
    """
    if study is None:
        return parameters
    path = study.path / "best.json"
    try:
        best = json.loads(path.read_bytes())["parameters"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the best.json of a study: {error}") from error
    log.info("from the study: %s", ", ".join(f"{name}={value}" for name, value in best.items()))
    kind = type(parameters)
    try:
        return kind.model_validate(merged(parameters.model_dump(mode="json"), best))
    except ValidationError as error:
        raise ConfigError(
            f"the study's best parameters do not fit: {explain_validation(error, kind, prefix=prefix)}"
        ) from error
