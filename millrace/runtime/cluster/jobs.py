"""A task handed to a TrainJob or an MPIJob, and followed to its end.

The job's name comes from the run, the task and all that it shall do: a step that is started again finds its job
and goes on following it, or finds the result. A job that failed belongs to an earlier attempt: it is deleted and
made again. So one attempt makes at most one job, and the step's own retries say how many there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from millrace.errors import ConfigError, MillraceError, TaskFailedError, TransientError, UserError
from millrace.runtime.cluster import mpijob, trainjob
from millrace.runtime.cluster.api import MPI_JOBS, PODS, TRAIN_JOBS, Cluster, Object, Resource
from millrace.runtime.cluster.failures import Ended, ended, first_cause, waiting
from millrace.runtime.cluster.logs import Logs
from millrace.runtime.cluster.remote import TASK, RemoteTask, read_remote_result
from millrace.runtime.cluster.rights import check_rights
from millrace.runtime.process import StoppedError
from millrace.runtime.task import TaskResult
from millrace.targets.kubeflow import ClusterWork, Training

__all__ = ["JOBS", "JobKind", "job_name", "work_out"]

_LONGEST_TASK = 100_000
"""Bytes of a task in an environment variable; Linux takes 131,071 with the name."""
_SETTLE_SECONDS = 30.0
"""How long the operator may take to end a job, one of whose hosts failed."""
_STUCK_SECONDS = 300.0
_STUCK = ("CreateContainerConfigError", "ErrImageNeverPull", "ErrImagePull", "ImagePullBackOff", "InvalidImageName")
"""What pods wait for in vain."""
_GONE_SECONDS = 300.0


class JobKind(NamedTuple):
    """A type of jobs that run on several hosts."""

    resource: Resource
    form: ModuleType
    """How it is written and read."""


JOBS = {"trainjob": JobKind(TRAIN_JOBS, trainjob), "mpijob": JobKind(MPI_JOBS, mpijob)}
"""By the kind of cluster work."""


def job_name(task: str, run: str, content: str) -> str:
    """A name that the same work has each time: at most 40 characters, so that names of pods have room."""
    slug = re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")
    slug = (slug if slug[:1].isalpha() else f"t{slug}")[:20].rstrip("-")
    short = re.sub(r"[^a-z0-9]", "", run.lower())[:8]
    return "-".join(part for part in (slug, short, hashlib.sha256(content.encode()).hexdigest()[:10]) if part)


def work_out(cluster: Cluster, work: ClusterWork, component: str, task: RemoteTask) -> TaskResult:
    """Have a task done by a job and give its result; the outputs are at their URIs then.

    Args:
        cluster: Where the job is made.
        work: Image, hosts, resources and settings.
        component: As `millrace exec` takes it.
        task: What the hosts shall do; their names and the place of the result are filled in.

    Raises:
        UserError: When the task is wrong, or may not be done.
        TransientError: When trying again may help. The job goes on where only the connection to it is lost.
        TaskFailedError: When it failed.
    """
    kind = JOBS[work.kind]
    name = job_name(task.name, task.run, "\n".join((component, work.model_dump_json(), task.model_dump_json())))
    place = min(task.outputs.values()).rpartition("/")[0]
    names = kind.form.host_names(name, work)
    task = task.model_copy(update={"hosts": names, "result": f"{place}/{name}.result.json"})
    if found := read_remote_result(task):
        print(f"{kind.resource.kind} {name} has done this task before", flush=True)
        return found
    text = _checked_text(task)
    check_rights(cluster, work.kind)
    command = ["millrace", "exec", component, "--remote"]
    body = kind.form.manifest(name, work, command, [{"name": TASK, "value": text}])
    follower = _Follower(cluster, kind, name, work)
    try:
        found_one = follower.begin(body)
        follower.follow()
        result = read_remote_result(task)
        if result is None and found_one:  # somebody deleted the result of an earlier attempt
            follower.begin(body, anew=True)
            follower.follow()
            result = read_remote_result(task)
    except (StoppedError, UserError):
        if not follower.over:
            with contextlib.suppress(MillraceError):
                cluster.delete(kind.resource, name)
                print(f"{kind.resource.kind} {name} is deleted", flush=True)
        raise
    if result is None:
        raise TaskFailedError(f"{kind.resource.kind} {name} went well, but there is no result at {task.result}")
    if not Training.model_validate(work.settings).keep:
        cluster.delete(kind.resource, name)
    return result


def _checked_text(task: RemoteTask) -> str:
    text = task.model_dump_json().replace("$", "\\u0024")  # Kubernetes would expand $(NAME) in a variable
    if len(text.encode()) > _LONGEST_TASK:
        raise ConfigError(
            f"{task.name}: the task has {len(text.encode())} bytes as JSON, a job's pods take {_LONGEST_TASK}: "
            "shorten the component's parameters"
        )
    return text


class _Follower:
    """One job, from its making to its end."""

    def __init__(self, cluster: Cluster, kind: JobKind, name: str, work: ClusterWork) -> None:
        self.cluster, self.kind, self.name, self.work = cluster, kind, name, work
        self.poll_seconds = Training.model_validate(work.settings).poll_seconds
        self.logs = Logs(cluster)
        self.pods: dict[str, Object] = {}
        """As they were seen last: an operator may take them away."""
        self.said: set[str] = set()
        self.stuck_since: float | None = None
        self.over = False

    def begin(self, body: Object, *, anew: bool = False) -> bool:
        """Make the job, unless it is there and may still end well, or did; returns whether that is so."""
        job = self.cluster.get(self.kind.resource, self.name)
        if job is not None and (anew or self._is_of_no_use(job)):
            self._delete_and_wait()
            job = None
        if job is None:
            self.cluster.create(self.kind.resource, body)
            self._say(f"{self.kind.resource.kind} {self.name} is made: {self.work.hosts} hosts")
            return False
        self._say(f"{self.kind.resource.kind} {self.name} is there: following it")
        return True

    def follow(self) -> None:
        """Show what happens until the job is over.

        Raises:
            MillraceError: When it did not end well.
        """
        failed_since: float | None = None
        while True:
            job = self.cluster.get(self.kind.resource, self.name)
            if job is None:
                raise TaskFailedError(f"{self.kind.resource.kind} {self.name} was deleted while it ran")
            self._look_at_pods()
            over = self.kind.form.condition(job)
            if over and over[0]:
                self.logs.finish(10)
                return
            if over:
                self._fail(over[1])
            if failed_since is None and self._failed():
                failed_since = time.monotonic()
            if failed_since is not None and time.monotonic() - failed_since > max(_SETTLE_SECONDS, self.poll_seconds):
                self.cluster.delete(self.kind.resource, self.name)
                self._fail("its operator did not end it")
            time.sleep(self.poll_seconds)

    def _is_of_no_use(self, job: Object) -> bool:
        over = self.kind.form.condition(job)
        return "deletionTimestamp" in job["metadata"] or (over is not None and not over[0])

    def _delete_and_wait(self) -> None:
        """Delete a job and wait until its pods are gone: those of the next one have the same names."""
        self._say(f"{self.kind.resource.kind} {self.name} of an earlier attempt is deleted")
        self.cluster.delete(self.kind.resource, self.name, propagation="Foreground")
        self._wait_until(lambda: self.cluster.get(self.kind.resource, self.name) is None)
        self._wait_until(lambda: not self.cluster.objects(PODS, self.kind.form.labels(self.name)))

    def _wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while not reached():
            if time.monotonic() > deadline:
                raise TransientError(f"{self.kind.resource.kind} {self.name} of an earlier attempt does not go away")
            time.sleep(min(1.0, self.poll_seconds))

    def _look_at_pods(self) -> None:
        pods = self.cluster.objects(PODS, self.kind.form.labels(self.name))
        self.pods.update({str(pod["metadata"]["name"]): pod for pod in pods})
        running = 0
        stuck = False
        for name, pod in self.pods.items():
            phase = (pod.get("status") or {}).get("phase", "Pending")
            host = self.kind.form.host(pod)
            running += phase == "Running"
            reason, told = waiting(pod) if phase == "Pending" else ("", "")
            if reason:
                self._say(f"host {host} waits: {reason}: {told}")
                stuck = stuck or reason in _STUCK
            if phase != "Pending":
                self.logs.follow(name, self.kind.form.container(pod), host)
            if phase in ("Succeeded", "Failed"):
                self.logs.ended(name)
        if running:
            self._say(f"{running} of {self.work.hosts} hosts run")
        self._give_up_when_stuck(stuck)

    def _give_up_when_stuck(self, stuck: bool) -> None:
        self.stuck_since = (self.stuck_since or time.monotonic()) if stuck else None
        if self.stuck_since and time.monotonic() - self.stuck_since > _STUCK_SECONDS:
            told = [item for item in map(waiting, self.pods.values()) if item[0] in _STUCK]
            raise ConfigError(f"the hosts can't start: {told[0][0]}: {told[0][1]}")

    def _failed(self) -> list[Ended]:
        """Hosts whose last pod failed; one that its operator has replaced counts no more."""
        last: dict[int, Object] = {}
        for pod in sorted(self.pods.values(), key=lambda pod: str(pod["metadata"].get("creationTimestamp", ""))):
            last[self.kind.form.host(pod)] = pod
        return [item for host, pod in last.items() if (item := ended(pod, host))]

    def _fail(self, operator: str) -> None:
        self.over = True
        self._look_at_pods()
        self.logs.finish(10)
        raise first_cause(self._failed(), self.work.hosts, operator)

    def _say(self, sentence: str) -> None:
        if sentence not in self.said:
            self.said.add(sentence)
            print(sentence, flush=True)
