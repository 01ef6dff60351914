"""Tests play Kubeflow Trainer and the MPI Operator: they run the pods of jobs as processes or containers here.

What a job's pods get follows the operators' own sources: names, labels, environment, how patches are merged over
the runtime, and when a job is over.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.fake_kubernetes import FakeKubernetes, Object, StatusError, now

__all__ = ["Operator", "apply_runtime", "mpi_operator", "processes", "trainer"]

PROJECT = Path(__file__).parents[2]
TRAIN_JOBS = "trainjobs.trainer.kubeflow.org"
MPI_JOBS = "mpijobs.kubeflow.org"

Start = Callable[[Object, Mapping[str, str], Path], "subprocess.Popen[str]"]
"""Starts a pod's container with an environment and a file for its last message."""


def apply_runtime(server: FakeKubernetes, namespace: str, **changes: str) -> Object:
    """Put the shipped TrainingRuntime into a namespace, as strictly as the server takes it."""
    document = yaml.safe_load((PROJECT / "containers/train/runtime.yaml").read_text())
    document.update(changes)
    kind = next(kind for kind in server.kinds.values() if kind.kind == document["kind"])
    return server.create(kind, namespace if kind.namespaced else "", document, strict=True)


def processes(pod: Object, environment: Mapping[str, str], message: Path) -> subprocess.Popen[str]:
    """Run a pod as a process of this machine."""
    [container] = pod["spec"]["containers"]
    command = [sys.executable, "-P", "-m", *container["command"]]
    inherited = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "COVERAGE_PROCESS_START") if name in os.environ
    }
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=PROJECT,
        env={**inherited, **environment, "MILLRACE_TERMINATION_LOG": str(message)},
        start_new_session=True,
    )


class Operator:
    """Runs the pods of jobs of one kind."""

    def __init__(
        self,
        server: FakeKubernetes,
        jobs: str,
        pods: Callable[[FakeKubernetes, Object], Iterator[Object]],
        conditions: tuple[str, str],
        start: Start,
        folder: Path,
    ) -> None:
        self.server, self.jobs, self.make_pods, self.start, self.folder = server, jobs, pods, start, folder
        self.conditions = conditions
        """What it calls success and failure."""
        self.hold = threading.Event()
        """While it is clear, pods stay pending."""
        self.hold.set()
        self.running: dict[tuple[str, str], subprocess.Popen[str]] = {}
        """By the job's uid and the pod's name."""
        self.started = 0
        self._lock = threading.Lock()

    def changed(self, event: str, job: Object) -> None:
        """What happens when a job is made or deleted."""
        uid = job["metadata"]["uid"]
        if event == "DELETED":
            self._end(uid)
        if event == "ADDED":
            for pod in self.make_pods(self.server, job):
                pod["metadata"]["ownerReferences"] = [
                    {"uid": uid, "kind": job["kind"], "name": job["metadata"]["name"]}
                ]
                self.server.put("pods", {**pod, "status": {"phase": "Pending"}})
                threading.Thread(target=self._run, args=(job, pod), daemon=True).start()

    def _run(self, job: Object, pod: Object) -> None:
        uid, name, namespace = job["metadata"]["uid"], pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.hold.wait()
        message = self.folder / f"{name}-{uid[:8]}.message"
        message.touch()
        message.chmod(0o666)
        with self._lock:
            try:
                self.server.get(self.jobs, namespace, job["metadata"]["name"])
            except StatusError:
                return
            process = self.start(pod, environment(self.server, pod), message)
            self.running[uid, name] = process
            self.started += 1
        with self._gone():
            self.server.set_status("pods", namespace, name, {"phase": "Running"})
        assert process.stdout is not None
        for line in process.stdout:
            self.server.append_log(namespace, name, line.rstrip("\n"))
        code = process.wait()
        state = {
            "exitCode": code if code >= 0 else 128 - code,
            "reason": "Completed" if code == 0 else "Error",
            "message": message.read_text(),
            "finishedAt": now(),
        }
        [container] = pod["spec"]["containers"]
        status = {
            "phase": "Failed" if code else "Succeeded",
            "containerStatuses": [{"name": container["name"], "state": {"terminated": state}}],
        }
        with self._gone():
            self.server.set_status("pods", namespace, name, status)
            self._job_status(job)

    def _job_status(self, job: Object) -> None:
        uid, namespace, name = (job["metadata"][key] for key in ("uid", "namespace", "name"))
        with self._lock:
            pods = [
                pod
                for pod in self.server.objects("pods", namespace)
                if pod["metadata"].get("ownerReferences", [{}])[0].get("uid") == uid
            ]
            phases = [pod["status"]["phase"] for pod in pods]
            over = self.server.get(self.jobs, namespace, name).get("status", {}).get("conditions")
            well, failed = self.conditions
            if "Failed" in phases and not over:
                self._condition(namespace, name, failed, "FailedJobs", "jobset failed due to one or more job failures")
                threading.Thread(target=self._end, args=(uid,), daemon=True).start()
            elif all(phase == "Succeeded" for phase in phases) and not over:
                self._condition(namespace, name, well, "AllJobsCompleted", "jobset completed successfully")

    def _condition(self, namespace: str, name: str, kind: str, reason: str, message: str) -> None:
        condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        self.server.set_status(self.jobs, namespace, name, {"conditions": [condition]})

    def _end(self, uid: str) -> None:
        with self._lock:
            ours = [process for (job, _), process in self.running.items() if job == uid]
        for process in ours:
            process.terminate()
        for process in ours:
            process.wait(timeout=30)

    @contextmanager
    def _gone(self) -> Iterator[None]:
        """The pod, or its job, may have been deleted."""
        try:
            yield
        except StatusError as error:
            if error.code != 404:
                raise


@contextmanager
def trainer(server: FakeKubernetes, folder: Path, start: Start = processes) -> Iterator[Operator]:
    """Play Kubeflow Trainer: TrainJob, JobSet and Job in one."""
    operator = Operator(server, TRAIN_JOBS, train_pods, ("Complete", "Failed"), start, folder)
    server.deny(TRAIN_JOBS, lambda job: _without_runtime(server, job) or _patched_environment(job))
    with _playing(server, operator):
        yield operator


@contextmanager
def mpi_operator(server: FakeKubernetes, folder: Path, start: Start = processes) -> Iterator[Operator]:
    """Play the MPI Operator."""
    with _playing(server, Operator(server, MPI_JOBS, mpi_pods, ("Succeeded", "Failed"), start, folder)) as operator:
        yield operator


@contextmanager
def _playing(server: FakeKubernetes, operator: Operator) -> Iterator[Operator]:
    server.subscribe(operator.jobs, operator.changed)
    try:
        yield operator
    finally:
        operator.hold.set()
        for process in list(operator.running.values()):
            if process.poll() is None:
                process.kill()
                process.wait()


def environment(server: FakeKubernetes, pod: Object) -> dict[str, str]:
    """The environment of a pod's container, as the kubelet makes it."""
    namespace, metadata = pod["metadata"]["namespace"], pod["metadata"]
    made = {"HOSTNAME": pod["spec"]["hostname"]}
    [container] = pod["spec"]["containers"]
    for variable in container.get("env", ()):
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            chosen = source["secretKeyRef"]
            value = server.get("secrets", namespace, chosen["name"])["stringData"][chosen["key"]]
        elif "fieldRef" in source:
            value = metadata["annotations"][source["fieldRef"]["fieldPath"].split("'")[1]]
        else:
            value = expanded(variable.get("value", ""), made)
        made[variable["name"]] = value
    return made


def expanded(value: str, known: Mapping[str, str]) -> str:
    """A variable's value as the kubelet makes it: `$(NAME)` is replaced where NAME is known, `$$` is a `$`."""

    def replaced(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else known.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", replaced, value)


def train_pods(server: FakeKubernetes, job: Object) -> Iterator[Object]:
    """The pods of a TrainJob: its runtime with the patches merged over it, once for each node."""
    namespace, name, spec = job["metadata"]["namespace"], job["metadata"]["name"], job["spec"]
    runtime = _runtime(server, job)
    [replicated] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    template = copy.deepcopy(replicated["template"]["spec"]["template"])
    for patch in spec.get("runtimePatches", ()):
        [change] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        assert change["name"] == replicated["name"]
        template = strategic_merge(template, change["template"]["spec"]["template"])
    trained = spec["trainer"]
    [container] = template["spec"]["containers"]
    container.update({key: trained[key] for key in ("image", "command", "args") if key in trained})
    container["resources"] = trained.get("resourcesPerNode", {})
    container["env"] = [*container.get("env", []), *trained.get("env", [])]
    index_name = "batch.kubernetes.io/job-completion-index"
    for index in range(trained["numNodes"]):
        pod = copy.deepcopy(template)
        metadata = pod.setdefault("metadata", {})
        known = {"jobset.sigs.k8s.io/jobset-name": name, "jobset.sigs.k8s.io/replicatedjob-name": "node"}
        metadata["labels"] = {**metadata.get("labels", {}), **known, index_name: str(index)}
        metadata["annotations"] = {**metadata.get("annotations", {}), index_name: str(index)}
        field = {"fieldRef": {"fieldPath": f"metadata.annotations['{index_name}']"}}
        pod["spec"]["containers"][0]["env"].append({"name": "JOB_COMPLETION_INDEX", "valueFrom": field})
        pod["spec"].update(hostname=f"{name}-node-0-{index}", subdomain=name)
        yield _pod(f"{name}-node-0-{index}-x7k2p", namespace, metadata, pod["spec"])


def mpi_pods(server: FakeKubernetes, job: Object) -> Iterator[Object]:
    """The pods of an MPIJob: a launcher, which is a worker too, and the workers."""
    namespace, name, spec = job["metadata"]["namespace"], job["metadata"]["name"], job["spec"]
    assert spec["runLauncherAsWorker"] is True
    for role, replicas in spec["mpiReplicaSpecs"].items():
        for index in range(replicas["replicas"]):
            template = copy.deepcopy(replicas["template"])
            part = "launcher" if role == "Launcher" else f"worker-{index}"
            known = {"training.kubeflow.org/job-name": name, "training.kubeflow.org/job-role": role.lower()}
            metadata = {**template["metadata"], "labels": {**template["metadata"]["labels"], **known}}
            template["spec"]["containers"][0]["env"].append({"name": "K_MPI_JOB_ROLE", "value": role.lower()})
            template["spec"].update(hostname=f"{name}-{part}", subdomain=name, restartPolicy=replicas["restartPolicy"])
            pod = f"{name}-launcher-8xk2p" if role == "Launcher" else f"{name}-{part}"
            yield _pod(pod, namespace, metadata, template["spec"])


def strategic_merge(base: Any, change: Any) -> Any:
    """A strategic merge patch, as far as pod templates need it: lists of named things are merged by name."""
    if isinstance(base, dict) and isinstance(change, dict):
        return {**base, **{key: strategic_merge(base.get(key), value) for key, value in change.items()}}
    keyed = isinstance(change, list) and all(isinstance(item, dict) and "name" in item for item in change)
    if keyed and isinstance(base, list):
        merged = {item["name"]: item for item in base}
        for item in change:
            merged[item["name"]] = strategic_merge(merged.get(item["name"]), item)
        return list(merged.values())
    return change


def _pod(name: str, namespace: str, metadata: Object, spec: Object) -> Object:
    assert max(len(name), len(spec["hostname"]), len(spec["subdomain"])) <= 63
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, "name": name, "namespace": namespace},
        "spec": spec,
    }


def _runtime(server: FakeKubernetes, job: Object) -> Object:
    chosen = job["spec"]["runtimeRef"]
    kind = next(kind for kind in server.kinds.values() if kind.kind == chosen["kind"])
    return server.get(kind.full_name, job["metadata"]["namespace"] if kind.namespaced else "", chosen["name"])


def _without_runtime(server: FakeKubernetes, job: Object) -> str | None:
    try:
        _runtime(server, job)
    except StatusError as error:
        return f"spec.runtimeRef: Invalid value: {error}: specified trainingRuntime must be created before the TrainJob"
    return None


def _patched_environment(job: Object) -> str | None:
    """The webhook takes no environment for the training container from patches."""
    return "must not have envs for the node containers" if "'env'" in str(job["spec"].get("runtimePatches")) else None
