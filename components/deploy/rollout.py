"""Deploy to KServe: create or update an InferenceService, wait, ask it, and promote or go back.

Nothing is remembered here. The service itself tells what was asked for, what was there before and how far it came, so
that a task that is killed goes on when it runs again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from millrace.components.deploy import kserve
from millrace.components.deploy.asking import PROTOCOLS, TENSORFLOW, Address, accuracy, unready
from millrace.components.deploy.checks import Questions, ask, channel_with_records, read_questions
from millrace.components.deploy.conditions import (
    address_of,
    conditions,
    knative_pending,
    latest_revision,
    pod_failure,
    standard_pending,
)
from millrace.components.deploy.spec import Canary, DeployInputs, DeployOutputs, DeployParameters
from millrace.errors import MillraceError, TaskFailedError, TransientError, UnsupportedError
from millrace.runtime.cluster.api import INFERENCE_SERVICES, PODS, Cluster, connect
from millrace.runtime.cluster.rights import check_rights
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import ImageRecords, ModelCard, read_json_model
from millrace.targets.kubeflow import ClusterWork, Serving

__all__ = ["deploy_on_cluster"]

_STEADY = 3  # answers in a row: gateways learn of a change one after the other


@dataclass
class _Rollout:
    """One deployment on its way."""

    cluster: Cluster
    parameters: DeployParameters
    serving: Serving
    wanted: kserve.Object
    context: Context

    @property
    def name(self) -> str:
        return self.parameters.name

    @property
    def digest(self) -> str:
        return kserve.revision(self.wanted)

    @property
    def verdict(self) -> str:
        """How a refusal of this model in this run is written down."""
        return f"{self.digest} {self.context.run}"

    def get(self) -> kserve.Object | None:
        return self.cluster.get(INFERENCE_SERVICES, self.name)

    def patch(self, change: kserve.Object) -> kserve.Object:
        return self.cluster.patch(INFERENCE_SERVICES, self.name, change)

    def pods(self) -> list[kserve.Object]:
        return self.cluster.objects(PODS, {"serving.kserve.io/inferenceservice": self.name})

    def address(self, current: kserve.Object, tag: str = "") -> Address:
        """Where to ask.

        Raises:
            TaskFailedError: When KServe gives no address.
        """
        url, host = address_of(current, self.serving, tag)
        if not url:
            raise TaskFailedError(f"KServe gives no address for {self.name!r}{f' ({tag})' if tag else ''}")
        protocols = PROTOCOLS if self.serving.runtime is None else TENSORFLOW
        return Address(url, self.name, host, protocols)


def deploy_on_cluster(
    parameters: DeployParameters, inputs: DeployInputs, outputs: DeployOutputs, context: Context
) -> Result:
    """Deploy a model as an InferenceService.

    Raises:
        UserError: For what KServe can't do, or a service that is somebody else's.
        TaskFailedError: When it does not come up or answers wrongly; what was there before serves again.
    """
    work = _work(context)
    kserve.check(parameters, work)
    card = read_json_model(inputs.model.path / "model.json", ModelCard)
    runtime = kserve.settings(work).runtime
    if runtime is not None and not isinstance(card.records, ImageRecords):
        raise UnsupportedError(
            f"target.serving.runtime={runtime}: no runtime of KServe makes of {card.records.things} what the model "
            "takes; use the serve image (target.serving.runtime=null)"
        )
    wanted = kserve.predictor(parameters, work, card.format, inputs.model.uri)
    cluster = connect(work.namespace)
    check_rights(cluster, work.kind)
    rollout = _Rollout(cluster, parameters, kserve.settings(work), wanted, context)
    channel = channel_with_records(inputs.records.path)
    served = kserve.accepted(rollout.get()) == rollout.digest
    canary, before = _begin(rollout, work)
    # The pods start while this process loads the same model and the records.
    questions = read_questions(inputs.model.path, inputs.records.path, channel, parameters.check_records)
    metrics = _checked(rollout, questions, canary, before, served=served and canary is None)
    current = rollout.get() or {}
    facts = _facts(rollout, current, work, canary)
    (outputs.endpoint.path / "endpoint.json").write_text(json.dumps(facts, indent=2) + "\n")
    return Result(metrics=metrics, metadata={"endpoint": {"url": facts["url"], "running": True}})


def _work(context: Context) -> ClusterWork:
    if context.cluster is None:
        raise MillraceError("there is no cluster work in this task")
    return context.cluster


def _begin(rollout: _Rollout, work: ClusterWork) -> tuple[Canary | None, str]:
    """Ask KServe for the new predictor unless that was done already.

    Returns:
        The canary that is on its way, and the newest revision before it.
    """
    log, name = rollout.context.log, rollout.name
    current = rollout.get()
    if current is None:
        log.info("creating InferenceService %r in namespace %r", name, work.namespace)
        rollout.cluster.create(INFERENCE_SERVICES, kserve.service(rollout.parameters, work, rollout.wanted))
        return None, ""
    _check_ours(rollout, current)
    if rollout.context.run and kserve.rejected(current) == rollout.verdict:
        raise TaskFailedError("this model failed its checks in an earlier attempt of this run: it is not tried again")
    canary = rollout.parameters.canary
    spec = current["spec"]
    beside = [item["predictor"] for item in spec.get("canary") or ()]
    if any(kserve.revision(item) == rollout.digest for item in beside):
        log.info("the canary of InferenceService %r is there already; going on", name)
        return canary or Canary(), ""
    if kserve.revision(spec["predictor"]) == rollout.digest:
        log.info("InferenceService %r has this model already; going on", name)
        percent = spec["predictor"].get("canaryTrafficPercent")
        going = None if percent is None else (canary or Canary(percent=percent)).model_copy(update={"percent": percent})
        return going, kserve.previous(current)[1]
    if canary is not None and not _was_ready(rollout, current):
        log.warning("the present model of InferenceService %r never answered: the new one gets all requests", name)
        canary = None
    percent = None if canary is None else canary.percent
    log.info("updating InferenceService %r: the new model gets %d %% of the requests", name, percent or 100)
    if canary is not None and rollout.serving.mode == "standard":
        rollout.patch(kserve.opened(rollout.wanted, canary.percent))
    else:
        rollout.patch(kserve.rolled_out(current, rollout.wanted, percent))
    return canary, latest_revision(current)


def _check_ours(rollout: _Rollout, current: kserve.Object) -> None:
    labels = current["metadata"].get("labels", {})
    if not kserve.MANAGED.items() <= labels.items():
        label = "=".join(*kserve.MANAGED.items())
        raise UnsupportedError(
            f"InferenceService {rollout.name!r} in namespace {current['metadata']['namespace']!r} was not made by "
            f"deploy: choose another name, or hand it over with `kubectl label inferenceservice {rollout.name} {label}`"
        )
    mode = str(current.get("status", {}).get("deploymentMode", "")).lower()
    known = {"serverless": "knative", "rawdeployment": "standard"}.get(mode, mode)
    if known and known != rollout.serving.mode:
        raise UnsupportedError(
            f"InferenceService {rollout.name!r} runs in {known} mode, which can't be changed: set "
            f"target.serving.mode={known}, or choose another name"
        )


def _was_ready(rollout: _Rollout, current: kserve.Object) -> bool:
    if rollout.serving.mode == "knative":
        status = current.get("status", {}).get("components", {}).get("predictor", {})
        return bool(status.get("latestRolledoutRevision"))
    return conditions(current).get("Ready", "").startswith("True")


def _checked(
    rollout: _Rollout, questions: Questions, canary: Canary | None, before: str, *, served: bool
) -> dict[str, float]:
    """Wait for the new predictor, ask it, and promote it, or go back to what was there.

    One that passed its checks before and is served since is left as it is, whatever the answers are now.
    """
    try:
        current = _arrived(rollout, before, canary)
        metrics = _judged(rollout, current, questions, canary)
        if canary is not None and canary.promote:
            _promote(rollout, current, before)
    except (TaskFailedError, httpx.HTTPError) as error:
        if served and isinstance(error, httpx.HTTPError):
            raise TransientError(f"the service could not be asked: {error}") from error
        if served:
            raise TaskFailedError(f"{error}\nthe model passed its checks before: the service stays as it is") from error
        outcome = _go_back(rollout, canary)
        if rollout.context.run:
            rollout.patch(kserve.noted(rejected=rollout.verdict))
        raise TaskFailedError(f"{error}\n{outcome}") from error
    if not served and (canary is None or canary.promote):
        rollout.patch(kserve.noted(accepted=rollout.digest))
    return metrics


def _arrived(rollout: _Rollout, before: str, canary: Canary | None) -> kserve.Object:
    """The service, once the new predictor is ready and has its share."""
    if rollout.serving.mode == "knative":
        percent = None if canary is None else canary.percent
        return _wait(rollout, lambda current, pods: knative_pending(current, before, percent))
    beside = canary is not None
    return _wait(rollout, lambda current, pods: standard_pending(current, pods, rollout.digest, beside=beside))


def _judged(rollout: _Rollout, current: kserve.Object, questions: Questions, canary: Canary | None) -> dict[str, float]:
    tag = "" if canary is None else {"knative": "latest", "standard": kserve.CANARY}[rollout.serving.mode]
    address = rollout.address(current, tag)
    _answers(rollout, address)
    told = f" ({address.host})" if address.host else ""
    rollout.context.log.info("asking %s%s with %d records", address.url, told, len(questions.examples))
    metrics = ask(address, questions, rollout.parameters)
    if canary is None:
        return metrics
    if canary.max_latency_ms is not None and metrics["latency_ms"] > canary.max_latency_ms:
        raise TaskFailedError(
            f"the canary takes {metrics['latency_ms']:.3g} ms for a request, allowed: "
            f"{canary.max_latency_ms:g} (canary.max_latency_ms)"
        )
    if canary.max_accuracy_drop is not None:
        present = rollout.address(current, "prev" if rollout.serving.mode == "knative" else "")
        pair = [
            accuracy(one, questions.examples, questions.labels, questions.classes, rollout.parameters)
            for one in (address, present)
        ]
        metrics |= {"accuracy": pair[0], "accuracy_before": pair[1]}
        if pair[0] < pair[1] - canary.max_accuracy_drop:
            raise TaskFailedError(
                f"the canary is right about {pair[0]:.3f} of the records, the present model about {pair[1]:.3f}; "
                f"allowed is a drop of {canary.max_accuracy_drop:g} (canary.max_accuracy_drop)"
            )
    return metrics


def _promote(rollout: _Rollout, current: kserve.Object, before: str) -> None:
    rollout.context.log.info("the checks pass: the new model gets all requests")
    change = kserve.promoted()
    if rollout.serving.mode == "standard":
        change = kserve.rolled_out(current, rollout.wanted)
    rollout.patch(change)
    _answers(rollout, rollout.address(_arrived(rollout, before, None)))


def _go_back(rollout: _Rollout, canary: Canary | None) -> str:
    """Bring back what was there, and say so."""
    current = rollout.get()
    if current is None:
        return f"InferenceService {rollout.name!r} is gone"
    if current["spec"].get("canary"):
        rollout.patch(kserve.withdrawn())
        return "the canary was ended; the earlier model has all requests"
    hidden = "canaryTrafficPercent" in current["spec"]["predictor"]
    change = kserve.restored(current, hidden=hidden)
    if change is None:
        return "there is no earlier model to go back to: the service stays as it is"
    rollout.context.log.warning("going back to the earlier model")
    earlier = kserve.revision(kserve.previous(current)[0])
    newest = latest_revision(current)
    rollout.patch(change)
    try:
        if rollout.serving.mode == "standard":
            _wait(rollout, lambda now, pods: standard_pending(now, pods, earlier, beside=False), earlier)
        else:
            if hidden:
                _wait(rollout, lambda now, pods: knative_pending(now, newest, 0), earlier)
                rollout.patch(kserve.promoted())
            _wait(rollout, lambda now, pods: knative_pending(now, newest, None), earlier)
    except TaskFailedError as error:
        return f"the earlier model was asked for again, but: {error}"
    return "the earlier model has all requests again"


def _wait(
    rollout: _Rollout, pending: Callable[[kserve.Object, list[kserve.Object]], str], digest: str = ""
) -> kserve.Object:
    """The service, once nothing is pending.

    Raises:
        TaskFailedError: When it takes too long or can't come up; the pod's reason comes first.
    """
    seconds = rollout.parameters.startup_timeout_seconds
    deadline = time.monotonic() + seconds
    told: dict[str, str] = {}
    while True:
        current = rollout.get()
        if current is None:
            raise TaskFailedError(f"InferenceService {rollout.name!r} was deleted while it was waited for")
        pods = rollout.pods()
        missing = pending(current, pods)
        if not missing:
            return current
        told = _tell_changes(rollout, current, told)
        failure, final = pod_failure(pods, digest or rollout.digest)
        if final or time.monotonic() > deadline:
            late = "" if final else f" within {seconds:g} s (startup_timeout_seconds)"
            states = "; ".join(f"{kind}={state}" for kind, state in told.items())
            first = f"{failure}\n" if failure else ""
            raise TaskFailedError(
                f"{first}InferenceService {rollout.name!r} did not come up{late}: {missing}; KServe says: "
                f"{states or 'nothing'}"
            )
        time.sleep(rollout.serving.poll_seconds)


def _tell_changes(rollout: _Rollout, current: kserve.Object, told: dict[str, str]) -> dict[str, str]:
    now = conditions(current)
    for kind, state in now.items():
        if told.get(kind) != state:
            rollout.context.log.info("InferenceService %r: %s is %s", rollout.name, kind, state)
    return now


def _answers(rollout: _Rollout, address: Address) -> None:
    """Wait until an address leads to the new predictor."""
    seconds = rollout.parameters.startup_timeout_seconds
    deadline = time.monotonic() + seconds
    steady = 0
    while steady < _STEADY:
        why = unready(address, rollout.digest, rollout.parameters)
        steady = 0 if why else steady + 1
        if why and time.monotonic() > deadline:
            hint = (
                "" if rollout.serving.ingress else "; from outside the cluster name a gateway in target.serving.ingress"
            )
            raise TaskFailedError(
                f"InferenceService {rollout.name!r} does not answer within {seconds:g} s: {why}{hint}"
            )
        time.sleep(rollout.serving.poll_seconds / (1 if why else 10))


def _facts(rollout: _Rollout, current: kserve.Object, work: ClusterWork, canary: Canary | None) -> dict[str, Any]:
    """What `endpoint.json` says."""
    url = str(current.get("status", {}).get("url") or rollout.address(current).url)
    waits = canary is not None and not canary.promote
    return {
        "url": url,
        "pid": None,
        "model": rollout.name,
        "running": True,
        "name": rollout.name,
        "namespace": work.namespace,
        "mode": rollout.serving.mode,
        "revision": latest_revision(current) or rollout.digest,
        "percent": canary.percent if canary is not None and waits else 100,
    }
