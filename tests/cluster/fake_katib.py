"""A stand-in for Katib: it renders trials from the template, runs them as processes here and collects what they print.

It plays the controller of a `FakeKubernetes`. What is suggested comes from the test, in a fixed order; trials, the
StdOut collector, early stopping by the median and the conditions follow Katib's rules. There is no kubelet: a trial's
container is its command on this machine, and its pod is an object that tells how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.cluster.fake_kubernetes import FakeKubernetes, StatusError

__all__ = ["EXPERIMENTS", "TRIALS", "FakeKatib"]

EXPERIMENTS = "experiments.kubeflow.org"
TRIALS = "trials.kubeflow.org"

Object = dict[str, Any]

_METRIC = re.compile(r"([\w|-]+)\s*=\s*([+-]?\d*(?:\.\d+)?(?:[Ee][+-]?\d+)?)")
_PLACEHOLDER = re.compile(r"\$\{trialParameters\..+?\}")


@dataclass
class _Trial:
    name: str
    assignments: dict[str, str]
    process: subprocess.Popen[str]
    message: Path
    begun: str
    reported: dict[str, list[float]] = field(default_factory=dict)
    stopped_early: bool = False
    over: str = ""
    reader: threading.Thread | None = None

    def read(self, wanted: list[str]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            for name, value in _METRIC.findall(line):
                if name in wanted and value:
                    self.reported.setdefault(name, []).append(float(value))


class FakeKatib:
    """The controller; use it as a context manager."""

    def __init__(self, kubernetes: FakeKubernetes, folder: Path, suggestions: list[dict[str, str]]) -> None:
        self.kubernetes = kubernetes
        self.folder = folder
        self.suggestions = suggestions
        self.most_at_once = 0
        self._trials: dict[str, list[_Trial]] = {}
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._control, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        for name in list(self._trials):
            self._end(name)

    def _control(self) -> None:
        while not self._stop.wait(0.1):
            there = {item["metadata"]["uid"]: item for item in self.kubernetes.objects(EXPERIMENTS)}
            for gone in set(self._trials) - set(there):
                self._end(gone)
            for uid, found in there.items():
                conditions = found.get("status", {}).get("conditions", [])
                if not any(item["type"] in ("Succeeded", "Failed") for item in conditions):
                    self._reconcile(self._trials.setdefault(uid, []), found)

    def _end(self, uid: str) -> None:
        for trial in self._trials.pop(uid):
            if trial.process.poll() is None:
                trial.process.kill()
            trial.process.wait()

    def _reconcile(self, trials: list[_Trial], found: Object) -> None:
        spec = found["spec"]
        for trial in trials:
            if not trial.over:
                self._look_at(trial, trials, found)
        running = [trial for trial in trials if not trial.over]
        while len(running) < spec["parallelTrialCount"] and len(trials) < spec["maxTrialCount"]:
            trials.append(self._start(found, len(trials)))
            running.append(trials[-1])
        self.most_at_once = max(self.most_at_once, len(running))
        failed = sum(trial.over in ("Failed", "MetricsUnavailable") for trial in trials)
        if failed > spec["maxFailedTrialCount"]:
            self._tell(found, "Failed", "ExperimentMaxFailedTrialsReached", trials)
        elif len(trials) == spec["maxTrialCount"] and not running:
            self._tell(found, "Succeeded", "ExperimentMaxTrialsReached", trials)
        else:
            self._tell(found, "Running", "ExperimentRunning", trials)

    def _start(self, found: Object, number: int) -> _Trial:
        template = found["spec"]["trialTemplate"]
        assignments = self.suggestions[number]
        assert set(assignments) == {item["name"] for item in found["spec"]["parameters"]}
        text = json.dumps(template["trialSpec"])
        for item in template["trialParameters"]:
            placeholder = f"${{trialParameters.{item['name']}}}"
            assert placeholder in text, f"{placeholder} is not in the template"
            text = text.replace(placeholder, assignments[item["reference"]])
        assert not _PLACEHOLDER.search(text)
        [container] = json.loads(text)["spec"]["template"]["spec"]["containers"]
        assert container["name"] == template["primaryContainerName"]
        name = f"{found['metadata']['name']}-{number:08x}"
        message = self.folder / f"{name}.message"
        message.touch()
        variables = {item["name"]: item["value"] for item in container["env"] if "value" in item}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *container["command"]],
            env={**os.environ, **variables, "MILLRACE_TERMINATION_LOG": str(message)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        trial = _Trial(name, assignments, process, message, datetime.now(UTC).isoformat())
        objective = found["spec"]["objective"]
        wanted = [objective["objectiveMetricName"], *objective.get("additionalMetricNames", [])]
        trial.reader = threading.Thread(target=trial.read, args=(wanted,), daemon=True)
        trial.reader.start()
        self._put(found, trial)
        return trial

    def _look_at(self, trial: _Trial, trials: list[_Trial], found: Object) -> None:
        if trial.process.poll() is None:
            if self._worse_than_median(trial, trials, found):
                trial.stopped_early = True
                trial.process.terminate()
            return
        assert trial.reader is not None
        trial.reader.join(5)
        objective = found["spec"]["objective"]["objectiveMetricName"]
        if trial.stopped_early:
            trial.over = "EarlyStopped"
        elif trial.process.returncode != 0:
            trial.over = "Failed"
        else:
            trial.over = "Succeeded" if objective in trial.reported else "MetricsUnavailable"
        with contextlib.suppress(StatusError):
            self._put(found, trial)

    def _worse_than_median(self, trial: _Trial, trials: list[_Trial], found: Object) -> bool:
        stopping = found["spec"].get("earlyStopping")
        if not stopping or trial.stopped_early:
            return False
        settings = {item["name"]: int(item["value"]) for item in stopping["algorithmSettings"]}
        step, name = settings["start_step"], found["spec"]["objective"]["objectiveMetricName"]
        done = [other.reported[name][:step] for other in trials if other.over == "Succeeded"]
        reported = trial.reported.get(name, [])
        if len(done) < settings["min_trials_required"] or len(reported) < step:
            return False
        median = statistics.median(map(statistics.mean, done))
        better = found["spec"]["objective"]["type"] == "maximize"
        return max(reported) < median if better else min(reported) > median

    def _put(self, found: Object, trial: _Trial) -> None:
        namespace, owner = found["metadata"]["namespace"], found["metadata"]
        labels = {"katib.kubeflow.org/experiment": owner["name"], "katib.kubeflow.org/trial": trial.name}
        reference = {"apiVersion": "kubeflow.org/v1beta1", "kind": "Experiment"}
        metadata: Object = {
            "namespace": namespace,
            "ownerReferences": [{**reference, "name": owner["name"], "uid": owner["uid"]}],
        }
        status: Object = {"startTime": trial.begun, "conditions": [{"type": "Running", "status": "True"}]}
        if trial.over:
            status["completionTime"] = datetime.now(UTC).isoformat()
            why = {"reason": f"Trial{trial.over}", "message": f"Trial has {trial.over.lower()}"}
            status["conditions"] = [
                {"type": "Running", "status": "False"},
                {"type": trial.over, "status": "True", **why},
            ]
            status["observation"] = {
                "metrics": [
                    {"name": name, "latest": str(values[-1]), "min": str(min(values)), "max": str(max(values))}
                    for name, values in trial.reported.items()
                ]
            }
        assignments = [{"name": name, "value": value} for name, value in trial.assignments.items()]
        body = {"apiVersion": "kubeflow.org/v1beta1", "kind": "Trial", "spec": {"parameterAssignments": assignments}}
        self.kubernetes.put(
            TRIALS, {**body, "metadata": {**metadata, "name": trial.name, "labels": labels}, "status": status}
        )
        phase = {"": "Running", "Succeeded": "Succeeded"}.get(trial.over, "Failed")
        ended = {"exitCode": trial.process.returncode, "message": trial.message.read_text(), "reason": "Error"}
        container = {"name": "trial", "state": {"terminated": ended} if trial.over else {"running": {}}}
        pod = {"apiVersion": "v1", "kind": "Pod", "status": {"phase": phase, "containerStatuses": [container]}}
        self.kubernetes.put("pods", {**pod, "metadata": {**metadata, "name": f"{trial.name}-x", "labels": labels}})

    def _tell(self, found: Object, kind: str, reason: str, trials: list[_Trial]) -> None:
        status: Object = {
            "startTime": trials[0].begun,
            "conditions": [
                {"type": "Created", "status": "True", "reason": "ExperimentCreated"},
                {"type": kind, "status": "True", "reason": reason, "message": f"{len(trials)} trials"},
            ],
            "trials": len(trials),
            "trialsSucceeded": sum(trial.over == "Succeeded" for trial in trials),
        }
        place = (found["metadata"]["namespace"], found["metadata"]["name"])
        if found.get("status") != status:
            with contextlib.suppress(StatusError):
                self.kubernetes.set_status(EXPERIMENTS, *place, status)


def until(condition: Any, seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        time.sleep(0.05)
