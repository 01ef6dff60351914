"""Rules on what the pipeline service does around a step: trying again, and taking results of earlier executions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from millrace.compilers.findings import Finding
from millrace.compilers.sagemaker.limits import EXPIRE_AFTER_MINUTES, RETRY_ATTEMPTS
from millrace.compilers.sagemaker.view import StepView, View, error, number, quoted, unknown_keys, warning
from millrace.errors import did_you_mean

__all__ = ["caches", "retries"]

_STEP_FAULTS = ("Step.SERVICE_FAULT", "Step.THROTTLING")
_JOB_FAULTS = ("SageMaker.JOB_INTERNAL_ERROR", "SageMaker.CAPACITY_ERROR", "SageMaker.RESOURCE_LIMIT")
_JOBS = ("Processing", "Training", "Tuning", "Transform", "AutoML", "QualityCheck", "ClarifyCheck", "NotebookJob")
_KEYS = ("ExceptionType", "IntervalSeconds", "BackoffRate", "MaxAttempts", "ExpireAfterMin")
_TIME = r"T(?=.)(\d+H)?(\d+M)?(\d+S)?"
_DURATION = re.compile(rf"P(?=.)(\d+Y)?(\d+M)?(\d+W)?(\d+D)?({_TIME})?|{_TIME}", re.IGNORECASE)
"""As the SDK's documentation has it: `P4DT12H`, `p30d`, `T12H`."""


def caches(view: View) -> Iterator[Finding]:
    """CacheConfig says whether, and for how long."""
    for step in view.listed:
        config = step.data.get("CacheConfig")
        path = f"{step.path}.CacheConfig"
        if config is None:
            continue
        if not isinstance(config, Mapping):
            yield error(path, f"a mapping is needed, given {quoted(config)}")
            continue
        yield from unknown_keys(config, ("Enabled", "ExpireAfter"), path)
        if not isinstance(config.get("Enabled"), bool):
            yield error(f"{path}.Enabled", f"true or false is needed, given {quoted(config.get('Enabled'))}")
        after = config.get("ExpireAfter")
        if after is not None and (not isinstance(after, str) or not _DURATION.fullmatch(after)):
            told = f"a duration of ISO 8601 is needed, such as P30D or PT12H, given {quoted(after)}"
            common = isinstance(after, str) and re.fullmatch(r"\d+[dhm]", after)  # in AWS's own examples
            yield (warning if common else error)(f"{path}.ExpireAfter", told)


def retries(view: View) -> Iterator[Finding]:
    """Retry policies name faults that the step knows, and end."""
    for step in view.listed:
        policies = step.data.get("RetryPolicies", [])
        if not isinstance(policies, list):
            yield error(f"{step.path}.RetryPolicies", f"a list is needed, given {quoted(policies)}")
            continue
        for index, policy in enumerate(policies):
            path = f"{step.path}.RetryPolicies[{index}]"
            if not isinstance(policy, Mapping):
                yield error(path, f"a mapping is needed, given {quoted(policy)}")
                continue
            yield from unknown_keys(policy, _KEYS, path)
            yield from _faults(step, policy.get("ExceptionType"), f"{path}.ExceptionType")
            yield from _times(policy, path)


def _faults(step: StepView, given: Any, path: str) -> Iterator[Finding]:
    known = (*_STEP_FAULTS, *(_JOB_FAULTS if step.kind in _JOBS else ()))
    faults = given if isinstance(given, list) else [given]
    if not faults:
        yield error(path, f"at least one is needed: {', '.join(known)}")
    for fault in faults:
        if fault in _JOB_FAULTS and step.kind not in _JOBS and step.kind != "":
            told = f"{step.kind} steps start no job, so they never fail with {fault!r}: {', '.join(_STEP_FAULTS)}"
            yield error(path, told)
        elif not isinstance(fault, str) or fault not in (*known, "Emr.RESOURCE_LIMIT"):
            yield error(path, f"unknown fault {quoted(fault)}: {did_you_mean(str(fault), known)}")


def _times(policy: Mapping[str, Any], path: str) -> Iterator[Finding]:
    if ("MaxAttempts" in policy) == ("ExpireAfterMin" in policy):
        told = "either MaxAttempts or ExpireAfterMin is needed"
        yield error(path, f"{told}, {'both are' if 'MaxAttempts' in policy else 'none is'} given")
    limits = (
        ("MaxAttempts", 1, RETRY_ATTEMPTS),
        ("ExpireAfterMin", 1, EXPIRE_AFTER_MINUTES),
        ("IntervalSeconds", 0, None),
    )
    for key, least, most in limits:
        value = policy.get(key, least)
        wrong = not isinstance(value, int) or isinstance(value, bool)
        if wrong or value < least or (most is not None and value > most):
            allowed = f"from {least} to {most:,}" if most is not None else f"of at least {least}"
            yield error(f"{path}.{key}", f"a whole number {allowed} is needed, given {quoted(value)}")
    rate = number(policy.get("BackoffRate", 1))
    if rate is None or rate < 0:
        told = f"a number of at least 0 is needed, given {quoted(policy['BackoffRate'])}"
        yield error(f"{path}.BackoffRate", told)
