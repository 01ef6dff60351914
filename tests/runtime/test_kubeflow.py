"""`millrace exec` as a pod of Kubeflow Pipelines calls it: real processes, the backend's own form of input."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from pydantic import JsonValue

from millrace.runtime.executor import RuntimeArtifact, artifact_path, plain_metadata
from millrace.runtime.process import follow
from millrace.runtime.task import TaskRequest

messages: Any = pipeline_spec_pb2  # its classes are made when it is imported
RUN = "6a5c0b2e-0000-4000-8000-000000000001"


@dataclass
class Pod:
    """A task's container: a folder for artifacts, and the command with its placeholders filled in.

    Artifacts have `s3://` URIs; `--input` and `--output` say where they are here, as the backend does.
    """

    folder: Path
    component: str
    task: str = "here"
    parameters: Mapping[str, object] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    """Other input parameters."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    lists: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    """Inputs without a placeholder."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Of every input."""
    outputs: Sequence[str] = ()
    metrics: Sequence[str] = ()
    more: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def executor_input(self) -> dict[str, Any]:
        single = {
            port: {"artifacts": [{"name": "7", "uri": f"s3://store/{port}", "metadata": self.metadata}]}
            for port in self.inputs
        }
        several = {
            port: {"artifacts": [{"name": "8", "uri": str(path), "type": {"schemaTitle": "x"}} for path in paths]}
            for port, paths in self.lists.items()
        }
        return {
            "inputs": {
                "parameterValues": {"parameters": json.dumps(self.parameters), **self.values},
                "artifacts": single | several,
                "somethingNew": {},
            },
            "outputs": {
                "parameters": {name: {"outputFile": str(self.folder / "values" / name)} for name in self.metrics},
                "artifacts": {
                    name: {"artifacts": [{"name": name, "uri": f"s3://store/{self.task}/{name}", "metadata": {}}]}
                    for name in self.outputs
                },
                "outputFile": str(self.answer_file),
            },
        }

    def command(self) -> list[str]:
        words = ["--executor-input", json.dumps(self.executor_input()), "--run", RUN, "--task", self.task]
        for port, path in self.inputs.items():
            words += ["--input", f"{port}={path}"]
        for name in self.outputs:
            words += ["--output", f"{name}={self.output(name)}"]
        return [sys.executable, "-P", "-m", "millrace", "exec", self.component, *words, *self.more]

    @property
    def answer_file(self) -> Path:
        return self.folder / "kfp_outputs" / "output_metadata.json"

    def output(self, name: str) -> Path:
        return self.folder / "store" / self.task / name

    def start(self) -> subprocess.Popen[str]:
        scratch = self.folder / "tmp"
        scratch.mkdir(exist_ok=True, parents=True)
        return subprocess.Popen(
            self.command(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "TMPDIR": str(scratch), **self.environment},
        )

    def run(self) -> subprocess.CompletedProcess[str]:
        process = self.start()
        out, err = process.communicate(timeout=120)
        assert list((self.folder / "tmp").iterdir()) == []
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def succeed(self) -> dict[str, Any]:
        """Run it, and read its answer as strictly as the backend."""
        ran = self.run()
        assert ran.returncode == 0, ran.stderr
        text = self.answer_file.read_text()
        json_format.Parse(text, messages.ExecutorOutput())
        answer: dict[str, Any] = json.loads(text)
        return answer


def words_folder(folder: Path, *words: str) -> Path:
    folder.mkdir(parents=True)
    for word in words:
        (folder / f"{word}.txt").write_text(word)
    return folder


def writer(folder: Path, **changes: Any) -> Pod:
    given: dict[str, Any] = {"outputs": ("words", "metrics", "summary"), "metrics": ("length",), "task": "written"}
    return Pod(folder, "tests.toys:write", **(given | changes))


class TestATaskThatSucceeds:
    def test_its_outputs_are_published_and_told(self, tmp_path: Path) -> None:
        pod = writer(tmp_path, parameters={"text": "a b c"})
        answer = pod.succeed()
        assert answer["parameterValues"] == {"length": 3.0}
        assert answer["artifacts"]["words"] == {
            "artifacts": [{"name": "words", "uri": "s3://store/written/words", "metadata": {"objects": 3}}]
        }
        assert answer["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"length": 3.0}
        assert sorted(file.read_text() for file in pod.output("words").iterdir()) == ["a", "b", "c"]
        assert json.loads((pod.output("metrics") / "metrics.json").read_text()) == {"length": 3.0}
        assert "| length | 3 |" in pod.output("summary").read_text()

    def test_what_an_earlier_attempt_left_is_replaced(self, tmp_path: Path) -> None:
        pod = writer(tmp_path)
        words_folder(pod.output("words"), "old")
        pod.output("words").with_name(".words.partial").mkdir()
        pod.succeed()
        assert [file.name for file in pod.output("words").iterdir() if file.stem == "old"] == []
        assert sorted(path.name for path in pod.output("words").parent.iterdir()) == ["metrics", "summary", "words"]

    def test_open_fields_win_over_the_constant_parameters(self, tmp_path: Path) -> None:
        pod = Pod(
            tmp_path,
            "tests.toys:judge",
            parameters={"score": 0.25},
            values={"judge_score": 1.0},
            inputs={"words": words_folder(tmp_path / "in", "a")},
            outputs=("model", "metrics"),
            metrics=("score",),
            more=("--open", "judge_score=score"),
        )
        assert pod.succeed()["parameterValues"] == {"score": 1.0}

    def test_text_that_looks_like_a_number_stays_text(self, tmp_path: Path) -> None:
        pod = writer(tmp_path, values={"write_text": "12 3.0"}, more=("--open", "write_text=text"))
        pod.succeed()
        assert sorted(file.read_text() for file in pod.output("words").iterdir()) == ["12", "3.0"]

    def test_a_copy_is_published_whole_on_another_file_system(self, tmp_path: Path) -> None:
        other = Path("/dev/shm")  # a file system of its own on every Linux
        if not os.access(other, os.W_OK) or other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("needs a second file system, at /dev/shm")
        with TemporaryDirectory(dir=other) as scratch:
            pod = writer(tmp_path, parameters={"text": "a b"}, environment={"TMPDIR": scratch})
            pod.succeed()
            assert list(Path(scratch).iterdir()) == []
        assert sorted(path.name for path in pod.output("words").parent.iterdir()) == ["metrics", "summary", "words"]
        assert len(list(pod.output("words").iterdir())) == 2

    def test_a_home_that_can_not_be_written_to_is_replaced(self, tmp_path: Path) -> None:
        pod = writer(tmp_path, environment={"HOME": str(tmp_path / "nowhere")})
        pod.succeed()
        assert not (tmp_path / "nowhere").exists()

    def test_log_lines_appear(self, tmp_path: Path) -> None:
        assert "length=2" in writer(tmp_path, parameters={"text": "a b"}).run().stdout


class TestInputs:
    def test_an_artifact_list_becomes_one_folder(self, tmp_path: Path) -> None:
        lists = {"words": [words_folder(tmp_path / "1", "a", "both"), words_folder(tmp_path / "2", "b", "both")]}
        pod = Pod(tmp_path, "tests.toys:work", lists=lists, outputs=("words",))
        assert pod.succeed()["artifacts"]["words"]["artifacts"][0]["metadata"] == {"objects": 3}
        assert sorted(file.read_text() for file in pod.output("words").iterdir()) == ["A", "B", "BOTH"]

    def test_different_files_of_one_name_are_an_error(self, tmp_path: Path) -> None:
        lists = {"words": [words_folder(tmp_path / "1", "a"), words_folder(tmp_path / "2", "a")]}
        (tmp_path / "2" / "a.txt").write_text("other")
        ran = Pod(tmp_path, "tests.toys:work", lists=lists, outputs=("words",)).run()
        assert ran.returncode == 1
        assert "two shares wrote different files called 'a.txt'" in ran.stderr

    def test_shares_take_their_parts(self, tmp_path: Path) -> None:
        source = words_folder(tmp_path / "in", "a", "b", "c")
        found = []
        for index in (0, 1):
            pod = Pod(
                tmp_path / str(index),
                "tests.toys:split",
                values={"share_index": float(index), "share_count": 2},
                inputs={"words": source},
                outputs=("parts",),
            )
            pod.succeed()
            found.append(sorted(path.stem for path in pod.output("parts").iterdir()))
        assert found == [["a", "c", "schema"], ["b", "schema"]]

    def test_inputs_of_a_port_that_takes_many_come_under_names_of_their_own(self, tmp_path: Path) -> None:
        taken = {"words": words_folder(tmp_path / "1", "a"), "more_0": words_folder(tmp_path / "2", "b")}
        lists = {"more_1": [words_folder(tmp_path / "3", "c"), words_folder(tmp_path / "4", "d")]}
        parts = ("--part", "more=more_0", "--part", "more=more_1")
        pod = Pod(tmp_path, "tests.toys:work", inputs=taken, lists=lists, outputs=("words",), more=parts)
        pod.succeed()
        assert [path.stem for path in pod.output("words").iterdir()] == ["a"]
        pod.more = (*parts, "--part", "more=more_2")
        ran = pod.run()
        assert (ran.returncode, ran.stderr) == (2, "error: here.more_2: an artifact is required\n")

    def test_nothing_in_the_store_is_an_empty_folder(self, tmp_path: Path) -> None:
        pod = Pod(tmp_path, "tests.toys:work", inputs={"words": tmp_path / "nothing"}, outputs=("words",))
        assert pod.succeed()["artifacts"]["words"]["artifacts"][0]["metadata"] == {"objects": 0}

    @pytest.mark.parametrize(
        ("uri", "path"),
        [
            ("s3://b/k/x", "/s3/b/k/x"),
            ("minio://b/k", "/minio/b/k"),
            ("gs://b/k", "/gcs/b/k"),
            ("oci://r/a/b:1", "/oci/r_a_b:1/models"),
            ("/local/store/x", "/local/store/x"),
        ],
    )
    def test_paths_follow_from_uris(self, uri: str, path: str) -> None:
        assert artifact_path(RuntimeArtifact(uri=uri)) == Path(path)

    def test_paths_in_the_workspace_and_of_an_own_choice(self) -> None:
        shared = RuntimeArtifact(uri="s3://b/k", metadata={"_kfp_workspace": True})
        assert artifact_path(shared) == Path("/kfp-workspace/.artifacts/s3/b/k")
        assert artifact_path(RuntimeArtifact(uri="s3://b/k", custom_path="/mine")) == Path("/mine")

    def test_metadata_is_as_it_was_given(self) -> None:
        stored: dict[str, JsonValue] = {"objects": {"struct": {"train": 3.0}}, "names": {"list": ["a"]}, "best": 0.5}
        assert plain_metadata(stored) == {"objects": {"train": 3}, "names": ["a"], "best": 0.5}


class TestATaskThatFails:
    def fails(self, pod: Pod, code: int) -> str:
        ran = pod.run()
        assert ran.returncode == code, ran.stderr
        assert not pod.answer_file.exists()
        assert not any(pod.output(name).exists() for name in pod.outputs)
        return ran.stderr

    def work(self, folder: Path, behaviour: str) -> Pod:
        source = words_folder(folder / "in", "a")
        parameters = {"behaviour": behaviour}
        return Pod(folder, "tests.toys:work", parameters=parameters, inputs={"words": source}, outputs=("words",))

    @pytest.mark.parametrize(
        ("behaviour", "code", "told"),
        [
            ("user", 2, "error: the words are spelt wrongly"),
            ("transient", 75, "error: 503 SlowDown"),
            ("crash", 1, "error: RuntimeError: boom"),
            ("vanish", 1, "it was ended by SIGKILL; most often the machine ran out of memory"),
            ("nothing", 1, "the worker ended with exit code 0 and no explanation"),
        ],
    )
    def test_exit_code_and_message(self, tmp_path: Path, behaviour: str, code: int, told: str) -> None:
        assert told in self.fails(self.work(tmp_path, behaviour), code)

    def test_a_wrong_value_is_named_by_task_and_field(self, tmp_path: Path) -> None:
        pod = self.work(tmp_path, "well")
        pod.values, pod.more = {"seconds": -1}, ("--open", "seconds=seconds")
        told = self.fails(pod, 2)
        assert told.splitlines() == ["error: here.seconds: Input should be greater than or equal to 0 (given: -1)"]

    def test_a_value_that_is_not_given(self, tmp_path: Path) -> None:
        told = self.fails(writer(tmp_path, more=("--open", "write_text=text")), 2)
        assert "written.text: the run gives no value to the input 'write_text'" in told

    def test_an_input_that_is_not_given(self, tmp_path: Path) -> None:
        assert "here.words: an artifact is required" in self.fails(Pod(tmp_path, "tests.toys:work"), 2)

    def test_work_for_the_cluster_that_is_misspelt(self, tmp_path: Path) -> None:
        told = self.fails(
            writer(tmp_path, more=("--cluster", '{"kind": "trainjob", "image": "x", "namspace": "y"}')), 2
        )
        assert "--cluster.namspace: unknown key: did you mean 'namespace'?" in told

    def test_an_output_that_can_not_be_written(self, tmp_path: Path) -> None:
        pod = writer(tmp_path)
        (tmp_path / "store").write_text("in the way")
        ran = pod.run()
        assert ran.returncode == 1
        assert "Not a directory" in ran.stderr or "File exists" in ran.stderr
        assert "Traceback" not in ran.stderr

    def test_work_for_the_cluster_in_a_run_without_an_id(self, tmp_path: Path) -> None:
        work = '{"kind": "inferenceservice", "namespace": "y", "image": "x"}'
        told = self.fails(writer(tmp_path, more=("--cluster", work, "--run", "$(NO_SUCH_VARIABLE)")), 2)
        assert "--run: work in the cluster is named after the run" in told

    def test_the_next_pod_finds_the_checkpoints_on_a_volume(self, tmp_path: Path) -> None:
        pod = self.work(tmp_path, "transient_once")
        volume = tmp_path / "volume"
        pod.environment = {"MILLRACE_CHECKPOINTS": str(volume), "RUN": "one"}
        pod.more = ("--run", "$(RUN)")
        self.fails(pod, 75)
        assert [path.name for path in volume.rglob("begun")] == ["begun"]
        pod.environment = {**pod.environment, "RUN": "two"}
        self.fails(pod, 75)
        pod.succeed()
        assert [path.relative_to(volume).parts[0] for path in volume.rglob("begun")] == ["one"]

    def test_a_share_that_does_not_exist(self, tmp_path: Path) -> None:
        told = self.fails(writer(tmp_path, values={"share_index": 2, "share_count": 2}), 2)
        assert "written.share_index: 2 is not below share_count" in told

    def test_an_output_that_the_image_does_not_know(self, tmp_path: Path) -> None:
        told = self.fails(writer(tmp_path, metrics=("length", "width")), 2)
        assert "has no outputs called ['width']" in told

    def test_a_placeholder_that_the_backend_left(self, tmp_path: Path) -> None:
        told = self.fails(writer(tmp_path, more=("--run", "{{$.pipeline_job_uuid}}")), 2)
        assert "left placeholders as they were: {{$.pipeline_job_uuid}}" in told

    def test_an_executor_input_that_is_none(self, tmp_path: Path) -> None:
        told = self.fails(writer(tmp_path, more=("--executor-input", '{"inputs": {}}')), 2)
        assert "--executor-input.outputs: a value is required" in told

    @pytest.mark.parametrize("behaviour", ["well", "stubborn"])
    def test_sigterm_ends_the_worker_and_leaves_nothing(self, tmp_path: Path, behaviour: str) -> None:
        pod = self.work(tmp_path, behaviour)
        journal = tmp_path / "journal"
        pod.parameters = {**pod.parameters, "seconds": 0 if behaviour == "stubborn" else 60, "journal": str(journal)}
        process = pod.start()
        deadline = time.monotonic() + 30
        while not (journal.exists() and (behaviour == "well" or "stubborn" in journal.read_text())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=25)
        assert process.returncode == 143
        assert "the task was ended by SIGTERM" in told
        assert not pod.output("words").exists()
        assert not pod.answer_file.exists()
        assert list((tmp_path / "tmp").iterdir()) == []
        assert not any(str(tmp_path / "tmp") in line for line in processes())


def test_progress_is_told_while_a_worker_is_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    request = TaskRequest(name="pictures", component="millrace.components.digits.spec:digits", parameters={"scale": 12})
    request.write(tmp_path)
    assert follow(tmp_path, report_seconds=0.2) == 0
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("progress: ")]
    assert lines
    assert all(re.fullmatch(r"progress: \d+ of 1797 images in \d+ s", line) for line in lines)


def processes() -> list[str]:
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines


def test_cores_are_those_that_the_process_may_use() -> None:
    count = "from millrace.runtime.process import cores_allowed; print(cores_allowed())"
    pinned = f"import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]); {count}"
    found = subprocess.run([sys.executable, "-c", pinned], capture_output=True, text=True, check=True).stdout
    assert found == "1\n"
