"""Pipelines of all shapes as Kubeflow documents."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from millrace.compilers.kubeflow import compile_pipeline
from millrace.errors import ConfigError, UnsupportedError
from millrace.pipelines.digits import Digits, digits
from millrace.pipelines.image_classification import ImageClassification, image_classification
from millrace.specs import Condition, OpenField, Report, RuntimeParameter, TaskOutput
from millrace.specs.runtime_parameters import open_fields
from millrace.targets.kubeflow import Kubeflow
from tests.compilers.kubeflow import flows
from tests.compilers.kubeflow.reading import Read, compiled
from tests.toys import Play, play

ROOT = Path(__file__).parents[3]
PICTURES = {"manifest": {"source": "s3://bucket/flowers"}}


@functools.cache
def of_digits() -> Read:
    return compiled(digits.compose(Digits()))


@functools.cache
def of_play() -> Read:
    return compiled(play.compose(Play()))


@pytest.mark.parametrize("flow", flows.FLOWS, ids=lambda flow: flow.name)
def test_every_shape_is_well_formed(flow: flows.Flow) -> None:
    compiled(flow.compose(flows.Config()))


class TestTasks:
    def test_two_tasks_of_one_component_are_told_apart(self) -> None:
        document = compiled(flows.two_of_one.compose(flows.Config()))
        assert document.argument("work-1", "--task") == ["work_1"]
        assert document.argument("work-2", "--task") == ["work_2"]
        assert document.task("work-2")["dependentTasks"] == ["work-1"]

    def test_names_of_kfps_own_groups_are_kept_apart(self) -> None:
        document = compiled(flows.two_of_one.compose(flows.Config()))
        assert document.argument("task-for-loop-1", "--task") == ["for_loop_1"]
        assert document.argument("task-condition-2", "--task") == ["condition_2"]

    def test_the_command_names_components_as_short_as_can_be(self) -> None:
        assert of_play().container("write")["command"] == ["millrace", "exec", "tests.toys:write"]
        assert of_digits().container("train")["command"] == ["millrace", "exec", "train"]

    def test_arguments_tell_everything_that_a_container_needs(self) -> None:
        document = of_play()
        assert document.container("judge")["args"] == [
            *("--executor-input", "{{$}}", "--run", "$(MILLRACE_RUN)", "--task", "judge"),
            *("--input", "words={{$.inputs.artifacts['words'].path}}"),
            *("--output", "model={{$.outputs.artifacts['model'].path}}"),
            *("--output", "metrics={{$.outputs.artifacts['metrics'].path}}"),
            *("--output", "summary={{$.outputs.artifacts['summary'].path}}"),
        ]

    def test_the_run_is_no_input_which_would_end_caching(self) -> None:
        document = of_play()
        assert document.pod("write")["fieldPathAsEnv"] == [
            {"name": "MILLRACE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert set(document.task("write")["inputs"]["parameters"]) == {"parameters"}

    def test_an_input_and_an_output_may_have_one_name(self) -> None:
        component = of_play().component("work")
        assert "words" in component["inputDefinitions"]["artifacts"]
        assert "words" in component["outputDefinitions"]["artifacts"]

    def test_only_inputs_that_are_wired_are_declared(self) -> None:
        alone = compiled(image_classification.compose(ImageClassification.model_validate(PICTURES))).component(
            "manifest"
        )
        wired = of_digits().component("manifest")
        assert "artifacts" not in alone["inputDefinitions"]
        assert set(wired["inputDefinitions"]["artifacts"]) == {"dataset"}

    def test_artifacts_have_the_types_that_the_ui_draws(self) -> None:
        made = of_digits().component("evaluate")["outputDefinitions"]
        titles = {name: one["artifactType"]["schemaTitle"] for name, one in made["artifacts"].items()}
        assert titles == {
            "report": "system.HTML",
            "predictions": "system.Artifact",
            "metrics": "system.Metrics",
            "summary": "system.Markdown",
            "confusion_matrix": "system.ClassificationMetrics",
            "roc": "system.ClassificationMetrics",
        }
        assert made["parameters"]["accuracy"] == {
            "parameterType": "NUMBER_DOUBLE",
            "description": "Share of records whose most probable class is the true one.",
        }

    def test_a_type_of_a_users_own_counts_as_what_it_stands_in_for(self) -> None:
        from millrace.compilers.kubeflow.interface import schema_of

        class Survey(Report):
            """A report of a special kind."""

        assert schema_of(Survey.artifact_type()) == "HTML"

    def test_parameters_reach_the_container_as_they_were(self) -> None:
        text = 'costs $$5 $(HOME) {{workflow.uid}} {{$.x}} "quoted" \n ümläut {{channel:task=a;name=b;type=c;}}'
        document = compiled(play.compose(Play.model_validate({"write": {"text": text}})))
        constant = document.task("write")["inputs"]["parameters"]["parameters"]["runtimeValue"]["constant"]
        assert json.loads(constant)["text"] == text
        assert "$" not in constant  # Kubernetes would expand it
        assert "{{" not in constant  # so would Argo


class TestControlFlow:
    def test_what_depends_on_a_skipped_task_is_skipped_with_it(self) -> None:
        document = compiled(flows.loop_in_condition.compose(flows.Config()))
        outer = "inputs.parameter_values['pipelinechannel--write-length'] >= 3.0"
        inner = "inputs.parameter_values['pipelinechannel--judge-score'] > 0.4"
        assert document.above("split") == [outer, "loop"]
        assert document.above("judge") == [outer]
        assert document.above("inner") == [outer, inner]
        assert document.above("dragged") == [outer]
        assert document.above("write") == []

    def test_tasks_under_one_condition_share_its_group(self) -> None:
        document = compiled(flows.independent_conditions.compose(flows.Config()))
        high = "inputs.parameter_values['pipelinechannel--judge-score'] >= 0.9"
        low = "inputs.parameter_values['pipelinechannel--judge-score'] < 0.9"
        length = "inputs.parameter_values['pipelinechannel--write-length'] > 2.0"
        assert document.above("good") == [high]
        assert document.above("bad") == [low]
        assert document.above("long") == [high, length]
        groups = [task for _, tasks in document.dags() for task in tasks.values() if "triggerPolicy" in task]
        assert len(groups) == 3

    def test_shares_are_a_loop_whose_results_are_collected(self) -> None:
        document = compiled(flows.loops_in_a_row.compose(flows.Config()))
        assert document.above("again") == ["loop"]
        loops = [
            task["parameterIterator"]
            for task in document.spec["root"]["dag"]["tasks"].values()
            if "parameterIterator" in task
        ]
        assert [loop["items"]["raw"] for loop in loops] == ["[0, 1]", "[0, 1, 2, 3]"]
        assert document.task("again")["inputs"]["parameters"]["share_count"]["runtimeValue"]["constant"] == 4
        for name in ("gather-split-parts", "judge"):
            (taken,) = document.component(name)["inputDefinitions"]["artifacts"].values()
            assert taken["isArtifactList"]
        for name in ("again", "passed"):  # a loop and a condition are handed one artifact
            assert document.argument(name, "--input") == ["words={{$.inputs.artifacts['words'].path}}"]

    def test_tasks_wait_for_loops_of_which_they_read_nothing(self) -> None:
        document = compiled(flows.loops_in_a_row.compose(flows.Config()))
        loop = next(
            name
            for name, task in document.spec["root"]["dag"]["tasks"].items()
            if task.get("parameterIterator", {}).get("items") == {"raw": "[0, 1, 2, 3]"}
        )
        assert document.task("last")["dependentTasks"] == [loop, "judge", "write"]

    def test_one_share_is_no_loop(self) -> None:
        document = compiled(flows.one_share.compose(flows.Config()))
        given = document.task("split")["inputs"]["parameters"]
        assert document.above("split") == []
        assert [given[name]["runtimeValue"]["constant"] for name in ("share_index", "share_count")] == [0, 1]
        assert document.argument("work", "--input") == ["words={{$.inputs.artifacts['words'].path}}"]

    def test_a_port_of_many_has_an_input_for_each_producer(self) -> None:
        document = compiled(flows.many_producers.compose(flows.Config()))
        assert document.argument("single", "--input") == ["words={{$.inputs.artifacts['words'].path}}"]
        assert document.argument("looped", "--part") == ["words=words"]
        assert document.argument("looped", "--input") == ["first={{$.inputs.artifacts['first'].path}}"]
        assert document.argument("both", "--part") == ["words=words_0", "words=words_1_", "words=words_2"]
        assert document.component("looped")["inputDefinitions"]["artifacts"]["words"]["isArtifactList"]

    def test_conditions_that_no_group_can_hold_are_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tasks\.needs_both: .*'good', which runs when"):
            compile_pipeline(flows.unjoinable.compose(flows.Config()), Kubeflow())


class TestRuntimeParameters:
    def test_they_are_typed_described_and_passed_on(self) -> None:
        names = ["train.epochs", "train.learning_rate", "quantize.scheme", "train.amp", "gate.accuracy"]
        document = compiled(open_fields(digits, Digits(), names))
        opened = document.spec["root"]["inputDefinitions"]["parameters"]
        assert opened["train_epochs"] == {
            "parameterType": "NUMBER_INTEGER",
            "defaultValue": 20.0,
            "isOptional": True,
            "description": "At most that many epochs.",
        }
        assert opened["train_amp"]["parameterType"] == "BOOLEAN"
        assert {"int8", "dynamic"} <= set(opened["quantize_scheme"]["literals"])
        assert document.argument("train", "--open") == [
            *("train_epochs=epochs", "train_learning_rate=learning_rate", "train_amp=amp")
        ]
        assert document.task("train")["inputs"]["parameters"]["train_epochs"] == {
            "componentInputParameter": "train_epochs"
        }
        assert document.above("deploy") == [
            "inputs.parameter_values['pipelinechannel--evaluate-accuracy'] >= "
            "inputs.parameter_values['pipelinechannel--gate_accuracy']"
        ]

    def test_an_open_field_below_a_condition_comes_through(self) -> None:
        document = compiled(open_fields(digits, Digits(), ["quantize.scheme"]))
        assert document.argument("quantize", "--open") == ["quantize_scheme=scheme"]
        assert document.above("quantize")

    @pytest.mark.parametrize(("compat", "shown"), [("2.14", False), ("2.15", False), ("2.16", True), ("2.17", True)])
    def test_allowed_values_are_told_to_backends_that_know_them(self, compat: str, shown: bool) -> None:
        target = Kubeflow.model_validate({"compat": compat})
        document = compiled(open_fields(digits, Digits(), ["quantize.scheme"]), target)
        assert ("literals" in document.spec["root"]["inputDefinitions"]["parameters"]["quantize_scheme"]) is shown

    def test_names_that_collide_are_refused(self) -> None:
        spec = play.compose(Play())
        pair = tuple(
            RuntimeParameter(name=name, kind="string", default="x", fills=(OpenField(task="write", path="text"),))
            for name in ("write.text", "write_text")
        )
        with pytest.raises(ConfigError, match=r"write\.text and write_text would both be called 'write_text'"):
            compile_pipeline(spec.model_copy(update={"runtime_parameters": pair}), Kubeflow())

    def test_a_name_that_a_task_uses_is_refused(self) -> None:
        taken = RuntimeParameter(name="words", kind="float", default=1, fills=(OpenField(task="judge", path="score"),))
        with pytest.raises(ConfigError, match="words can't stay open: task 'judge' has an input of that name"):
            compile_pipeline(play.compose(Play()).model_copy(update={"runtime_parameters": (taken,)}), Kubeflow())

    @pytest.mark.parametrize("name", ["param", "item", "loop-item"])
    def test_names_that_are_in_those_of_loops_get_through(self, name: str) -> None:
        spec = flows.loops_in_a_row.compose(flows.Config())
        opened = RuntimeParameter(
            name=name.replace("-", "."), kind="boolean", default=True, fills=(OpenField(task="again", path="clash"),)
        )
        document = compiled(spec.model_copy(update={"runtime_parameters": (opened,)}))
        assert document.argument("again", "--open") == [f"{name.replace('-', '_')}=clash"]


class TestDocument:
    def test_the_same_pipeline_gives_the_same_bytes(self) -> None:
        program = (
            "from tests.compilers.kubeflow import flows\n"
            "from millrace.compilers.kubeflow import compile_pipeline\n"
            "from millrace.targets.kubeflow import Kubeflow\n"
            "import hashlib\n"
            "chosen = (*flows.FLOWS, flows.FLOWS[0])\n"
            "texts = [compile_pipeline(flow.compose(flows.Config()), Kubeflow()) for flow in chosen]\n"
            "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
        )
        found = {
            subprocess.run(
                [sys.executable, "-c", program],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("0", "1", "4242")
        }
        assert len(found) == 1

    def test_it_carries_name_description_and_root(self) -> None:
        target = Kubeflow(pipeline_root="s3://bucket/runs")
        document = compiled(image_classification.compose(ImageClassification.model_validate(PICTURES)), target)
        assert document.spec["pipelineInfo"] == {
            "name": "image-classification",
            "description": "Classify the pictures of a folder or an S3 prefix, one folder a class.",
        }
        assert document.spec["defaultPipelineRoot"] == "s3://bucket/runs"

    def test_a_pipeline_named_like_a_task_in_kubeflow_is_refused(self) -> None:
        spec = flows.two_of_one.compose(flows.Config()).model_copy(update={"name": "work__1"})
        with pytest.raises(ConfigError, match=r"pipeline\.name: 'work__1' would be called 'work-1'"):
            compile_pipeline(spec, Kubeflow())

    def test_a_condition_on_an_integer_compares_numbers(self) -> None:
        spec = play.compose(Play())
        opened = RuntimeParameter(
            name="least", kind="integer", default=0, fills=(OpenField(task="write", path="text"),)
        )
        condition = Condition(
            metric=TaskOutput(task="judge", port="score"), comparison="<=", threshold=0, runtime="least"
        )
        tasks = tuple(
            task.model_copy(update={"conditions": (condition,)}) if task.name == "last" else task for task in spec.tasks
        )
        document = compiled(spec.model_copy(update={"tasks": tasks, "runtime_parameters": (opened,)}))
        assert document.above("last") == [
            "inputs.parameter_values['pipelinechannel--judge-score'] <= "
            "double(int(inputs.parameter_values['pipelinechannel--least']))"
        ]

    def test_nothing_of_the_compilers_own_is_left_in_it(self) -> None:
        spec = flows.many_producers.compose(flows.Config())
        assert "millrace_output" not in compile_pipeline(spec, Kubeflow())
