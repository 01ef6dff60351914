"""Search on a cluster: a Katib Experiment, made or found again, followed, and written down as a study."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

from millrace.components.tune import katib
from millrace.components.tune.refusals import check
from millrace.components.tune.reporting import result
from millrace.components.tune.spec import TuneInputs, TuneOutputs, TuneParameters
from millrace.components.tune.study import Search
from millrace.components.tune.trials import base_parameters
from millrace.errors import MillraceError, TaskFailedError, TransientError, UserError
from millrace.runtime.cluster.api import EXPERIMENTS, PODS, TRIALS, Cluster, connect
from millrace.runtime.cluster.failures import ended, waiting
from millrace.runtime.cluster.jobs import job_name
from millrace.runtime.cluster.remote import RemoteArtifact, RemoteTask
from millrace.runtime.cluster.rights import check_rights
from millrace.runtime.cluster.transfer import check_uri
from millrace.runtime.context import Context, Result
from millrace.runtime.process import StoppedError, stop_on_signals
from millrace.targets.kubeflow import ClusterWork, Tuning

__all__ = ["search_on_cluster"]

_EXPERIMENT = "katib.kubeflow.org/experiment"
_TRIAL = "katib.kubeflow.org/trial"
_GONE_SECONDS = 120.0


@dataclass
class _Follower:
    """One Experiment, from its making to its end."""

    cluster: Cluster
    name: str
    parameters: TuneParameters
    settings: Tuning
    context: Context
    told: set[str] = field(default_factory=set)
    first_failure: str = ""

    def begin(self, body: katib.Object) -> None:
        """Make the Experiment, unless it is there and did not fail."""
        found = self.cluster.get(EXPERIMENTS, self.name)
        if found is not None and (katib.condition(found)[0] == "Failed" or "deletionTimestamp" in found["metadata"]):
            self.context.log.info("Experiment %s of an earlier attempt is deleted", self.name)
            self._delete_and_wait()
            found = None
        if found is None:
            self.cluster.create(EXPERIMENTS, body)
        self.context.log.info("Experiment %s is %s", self.name, "made" if found is None else "there: following it")

    def follow(self) -> tuple[katib.Object, ...]:
        """The trials, once the Experiment or the time is over.

        Raises:
            MillraceError: When it can't go on.
        """
        minutes = self.parameters.timeout_minutes
        deadline = None if minutes is None else time.monotonic() + minutes * 60
        while True:
            found = self.cluster.get(EXPERIMENTS, self.name)
            trials = self.cluster.objects(TRIALS, {_EXPERIMENT: self.name})
            self._look_at(trials)
            if found is None:
                raise TaskFailedError(f"Experiment {self.name} was deleted while it ran")
            state, why = katib.condition(found)
            if state == "Failed" and not self.first_failure:
                self.first_failure = why
            if state:
                return tuple(trials)
            complete = any(katib.trial_state(trial) == "complete" for trial in trials)
            if deadline is not None and time.monotonic() > deadline and complete:
                self.context.log.info("the time is over: Experiment %s is deleted", self.name)
                self.cluster.delete(EXPERIMENTS, self.name)
                return tuple(trials)
            time.sleep(self.settings.poll_seconds)

    def _look_at(self, trials: list[katib.Object]) -> None:
        pods = self.cluster.objects(PODS, {_EXPERIMENT: self.name})
        over = 0
        for trial in trials:
            name, state = trial["metadata"]["name"], katib.trial_state(trial)
            over += bool(state)
            own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(_TRIAL) == name]
            if not state:
                self._tell_waiting(name, own)
            elif f"{name} {state}" not in self.told:
                self.told.add(f"{name} {state}")
                self._tell_end(trial, state, own)
        self.context.progress(over, self.parameters.trials, "trials")

    def _tell_waiting(self, trial: str, pods: list[katib.Object]) -> None:
        for reason, message in map(waiting, pods):
            sentence = f"trial {trial} waits: {reason}: {message}"
            if reason and sentence not in self.told:
                self.told.add(sentence)
                self.context.log.warning("%s", sentence)

    def _tell_end(self, trial: katib.Object, state: str, pods: list[katib.Object]) -> None:
        name = trial["metadata"]["name"]
        values = " ".join(f"{item['name']}={item['value']}" for item in trial["spec"]["parameterAssignments"])
        observed = trial["status"].get("observation", {}).get("metrics", ())
        figures = " ".join(f"{item['name']}={item['latest']}" for item in observed)
        self.context.log.info("trial %s: %s %s (%s)", name, state, figures, values)
        if state != "fail":
            return
        failures = [failed for pod in pods if (failed := ended(pod, 0))]
        conditions = [item for item in trial["status"].get("conditions", ()) if item["status"] == "True"]
        why = failures[0].message if failures else f"{conditions[-1].get('reason')}: {conditions[-1].get('message')}"
        reason = f"trial {name} ({values}): {why}"
        self.first_failure = self.first_failure or reason
        self.context.log.warning("%s", reason)
        if failures and failures[0].kind == "user":
            raise UserError(reason)

    def _delete_and_wait(self) -> None:
        self.cluster.delete(EXPERIMENTS, self.name, propagation="Foreground")
        deadline = time.monotonic() + _GONE_SECONDS
        while self.cluster.get(EXPERIMENTS, self.name) is not None:
            if time.monotonic() > deadline:
                raise TransientError(f"Experiment {self.name} of an earlier attempt does not go away")
            time.sleep(min(1.0, self.settings.poll_seconds))


def search_on_cluster(parameters: TuneParameters, inputs: TuneInputs, outputs: TuneOutputs, context: Context) -> Result:
    """Have Katib run the trials, and write the study as a search in the step's own pod does.

    Raises:
        UserError: For what Katib can't do, or a mistake that a trial met.
        TaskFailedError: When no trial finished.
    """
    work = context.cluster
    if work is None:
        raise MillraceError("there is no cluster work in this task")
    check(parameters, warm_start=bool(inputs.warm_start))
    base = base_parameters(parameters)
    uris = inputs.records.parts or (inputs.records.uri,)
    for uri in uris:
        check_uri(uri, "records")
    given = {"records": tuple(RemoteArtifact(uri=uri) for uri in uris)}
    task = RemoteTask(name="trial", run=context.run, parameters=base, inputs=given)
    content = "\n".join((parameters.model_dump_json(), work.model_dump_json(), task.model_dump_json()))
    name = job_name(context.task or "tune", context.run, content)
    settings = Tuning.model_validate(work.settings)
    follower = _Follower(connect(work.namespace), name, parameters, settings, context)
    check_rights(follower.cluster, work.kind)
    trials = _followed(follower, work, task)
    search = Search(context.scratch / "study.db", parameters)
    search.take(katib.records(parameters, trials))
    if search.best() is None:
        raise TaskFailedError(f"none of the {len(trials)} trials finished: {follower.first_failure}")
    search.write(outputs.study.path)
    if not settings.keep:
        follower.cluster.delete(EXPERIMENTS, name)
    return result(search, parameters)


def _followed(follower: _Follower, work: ClusterWork, task: RemoteTask) -> tuple[katib.Object, ...]:
    """The trials; who ends this process, or makes a mistake, ends the Experiment."""
    try:
        with stop_on_signals():
            follower.begin(katib.experiment(follower.name, follower.parameters, work, task))
            return follower.follow()
    except (StoppedError, UserError):
        with contextlib.suppress(MillraceError):
            follower.cluster.delete(EXPERIMENTS, follower.name)
            follower.context.log.info("Experiment %s is deleted", follower.name)
        raise
