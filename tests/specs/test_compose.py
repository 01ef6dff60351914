"""Wiring mistakes are found while composing, at the author's own line."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError, create_model

from millrace.errors import CompositionError
from millrace.specs import (
    Artifact,
    ComponentSpec,
    Dataset,
    Inputs,
    Metric,
    Model,
    Outputs,
    Parameters,
    PipelineSpec,
    Retries,
    component,
    pipeline,
    when,
)
from tests import toys
from tests.toys import JudgeParameters, Play, WorkParameters, WriteParameters, judge, split, work, write


def complaint(function: Callable[[Play], None], marker: str = "# here") -> str:
    """What composing complains of, after checking that it points at the marked line."""
    with pytest.raises(CompositionError) as caught:
        pipeline(function).compose(Play())
    lines, first = inspect.getsourcelines(function)
    line = first + next(number for number, text in enumerate(lines) if marker in text)
    assert caught.value.location == f"{__file__}:{line}"
    assert str(caught.value).startswith(caught.value.location)
    return caught.value.message


def anything(value: Any) -> Any:
    """Hides a mistake from the type checkers, which would find it first."""
    return value


class TestAMistake:
    def test_missing_input(self) -> None:
        def wrong(config: Play) -> None:
            anything(work)(config.work)  # here

        assert complaint(wrong) == "task 'work': input 'words' is missing: it needs a Dataset (version 1)"

    def test_unknown_input(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            anything(work)(config.work, wrods=written.words)  # here

        message = complaint(wrong)
        assert message == "task 'work': unknown input 'wrods': did you mean 'words'? allowed: more, words"

    def test_wrong_artifact_type(self) -> None:
        def wrong(config: Play) -> None:
            judged = judge(config.judge, words=write(config.write).words)
            work(config.work, words=anything(judged.model))  # here

        message = complaint(wrong)
        assert message == (
            "task 'work': input 'words' needs a Dataset (version 1), given judge.model, a Model (version 1)"
        )

    def test_something_that_is_no_output(self) -> None:
        def wrong(config: Play) -> None:
            work(config.work, words=anything("words.txt"))  # here

        assert "needs a Dataset (version 1) made by an earlier task, given str" in complaint(wrong)

    def test_unknown_metric(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            with when(anything(Metric)(producer={"task": "write", "port": "lenght"}) > 3):  # here
                work(config.work, words=written.words)

        assert "unknown metric write.lenght: did you mean 'length'? allowed: length" in complaint(wrong)

    def test_condition_used_as_truth_value(self) -> None:
        def wrong(config: Play) -> None:
            bool(anything(write(config.write).length > 3))

        with pytest.raises(CompositionError, match=r"write with when\(\.\.\.\)|with when"):
            pipeline(wrong).compose(Play())

    def test_duplicate_task_name(self) -> None:
        def wrong(config: Play) -> None:
            write(config.write)
            write(config.write)  # here

        message = complaint(wrong)
        assert "duplicate task name 'write', first used at" in message
        assert "with_options(name=...)" in message

    def test_cycle(self) -> None:
        def wrong(config: Play) -> None:
            written = write.with_options(after=("work",))(config.write)  # here
            work(config.work, words=written.words)

        assert complaint(wrong) == "tasks depend on each other in a cycle: write -> work -> write"

    def test_unknown_task_to_wait_for(self) -> None:
        def wrong(config: Play) -> None:
            write.with_options(after=("wrok",))(config.write)  # here

        assert "depends on unknown task 'wrok'" in complaint(wrong)

    def test_parameter_out_of_range(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            work(WorkParameters(seconds=-1), words=written.words)  # here

        assert complaint(wrong) == "seconds: Input should be greater than or equal to 0 (given: -1)"

    def test_parameters_of_another_component(self) -> None:
        def wrong(config: Play) -> None:
            write(anything(config.work))  # here

        assert "parameters must be tests.toys.WriteParameters, given WorkParameters" in complaint(wrong)

    def test_several_artifacts_for_one_port(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            work(config.work, words=anything([written.words, written.words]))  # here

        assert complaint(wrong) == "task 'work': input 'words' takes one artifact, given a list of 2"

    def test_a_list_of_one_artifact(self) -> None:
        def wrong(config: Play) -> None:
            work(config.work, words=anything([write(config.write).words]))  # here

        assert complaint(wrong) == "task 'work': input 'words' takes one artifact, given a list of 1"

    def test_misspelt_output(self) -> None:
        def wrong(config: Play) -> None:
            work(config.work, words=anything(write(config.write)).wrods)  # here

        assert "no attribute 'wrods': did you mean 'words'? allowed: length, metrics, words" in complaint(wrong)

    def test_an_error_of_the_authors_own(self) -> None:
        def wrong(config: Play) -> None:
            write(config.write)
            int("many")  # here

        assert complaint(wrong) == "ValueError: invalid literal for int() with base 10: 'many'"

    def test_a_path_that_is_not_there_yet(self) -> None:
        def wrong(config: Play) -> None:
            print(write(config.write).words.path)  # here

        assert complaint(wrong) == "Dataset write.words has no path while a pipeline is composed"

    def test_a_metric_used_as_truth_value(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            if anything(written.length):  # here
                work(config.work, words=written.words)

        assert "the metric write.length has no value while composing" in complaint(wrong)

    def test_a_comparison_that_targets_have_not(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            with when(anything(written.length) == 3):  # here
                work(config.work, words=written.words)

        assert "given False; == and != are none: compare by >=, >, <= or <" in complaint(wrong)

    @pytest.mark.parametrize("after", ["write", Play()])
    def test_tasks_to_wait_for_that_are_no_tuple(self, after: object) -> None:
        def wrong(config: Play) -> None:
            write.with_options(after=anything(after))(config.write)  # here

        assert complaint(wrong) == "`after` takes a tuple of outputs or names: after=(trained,)"

    def test_an_output_of_another_pipeline(self) -> None:
        kept: list[Any] = []

        @pipeline
        def other(config: Play) -> None:
            kept.append(write.with_options(name="written")(config.write))

        def wrong(config: Play) -> None:
            write(config.write)
            work(config.work, words=kept[0].words)  # here

        other.compose(Play())
        assert complaint(wrong) == (
            "task 'work': input 'words' is given written.words, but this pipeline has no task 'written': "
            "did you mean 'write'? allowed: write"
        )

    def test_a_metric_of_another_pipeline(self) -> None:
        def wrong(config: Play) -> None:
            written = write(config.write)
            with when(anything(Metric)(producer={"task": "wrote", "port": "length"}) > 3):  # here
                work(config.work, words=written.words)

        assert "this pipeline has no task 'wrote': did you mean 'write'?" in complaint(wrong)

    def test_a_pipeline_name_that_no_target_can_carry(self) -> None:
        def Wrong(config: Play) -> None:  # noqa: N802 - a name that no target can carry # here
            write(config.write)

        assert "name: String should match pattern" in complaint(Wrong)

    def test_a_function_that_is_not_run_by_calling_it(self) -> None:
        async def later(config: Play) -> None:
            write(config.write)

        def bit_by_bit(config: Play) -> Any:
            yield write(config.write)

        for function in (later, bit_by_bit):
            with pytest.raises(CompositionError, match="must be a plain function, without async and yield"):
                pipeline(anything(function))

    def test_a_configuration_of_another_pipeline(self) -> None:
        with pytest.raises(CompositionError, match="'play' needs a Play, given JudgeParameters") as caught:
            toys.play.compose(anything(JudgeParameters()))
        assert caught.value.location.startswith(__file__)

    @pytest.mark.parametrize("annotation", ["Play | None", "list[Play]", "Plya"])
    def test_a_configuration_that_is_none(self, annotation: str) -> None:
        def wrong(config: Any) -> None:
            write(config.write)

        wrong.__annotations__["config"] = annotation
        with pytest.raises(CompositionError, match=r"annotated with a PipelineConfig|'Plya' is not defined") as caught:
            pipeline(wrong)
        assert caught.value.location.startswith(__file__)

    def test_shares_for_a_component_that_has_none(self) -> None:
        def wrong(config: Play) -> None:
            write.with_options(shares=2)(config.write)  # here

        assert "can't be spread over shares" in complaint(wrong)

    def test_task_named_like_the_pipeline(self) -> None:
        def wrong(config: Play) -> None:
            write.with_options(name="wrong")(config.write)  # here

        assert "pipeline and task are both called 'wrong'" in complaint(wrong)

    def test_name_that_no_target_can_carry(self) -> None:
        def wrong(config: Play) -> None:
            write.with_options(name="Write It")(config.write)  # here

        assert "name: String should match pattern" in complaint(wrong)

    def test_no_task_at_all(self) -> None:
        def wrong(config: Play) -> None:  # here
            pass

        assert "has no tasks" in complaint(wrong)

    def test_component_called_outside_a_pipeline(self) -> None:
        with pytest.raises(CompositionError, match="called outside a @pipeline function"):
            write(WriteParameters())

    def test_pipeline_without_a_configuration(self) -> None:
        with pytest.raises(CompositionError, match="annotated with a PipelineConfig"):
            pipeline(anything(lambda config: None))


class TestASpec:
    def test_round_trips_through_json_byte_for_byte(self) -> None:
        text = toys.play.compose(Play()).to_json()
        assert PipelineSpec.from_json(text).to_json() == text
        assert PipelineSpec.from_json(text) == toys.play.compose(Play())

    def test_is_the_same_each_time(self) -> None:
        assert toys.play.compose(Play()).to_json() == toys.play.compose(Play()).to_json()

    def test_orders_tasks_after_what_they_depend_on(self) -> None:
        order = toys.play.compose(Play()).order()
        assert order.index("write") < order.index("work") < order.index("judge") < order.index("last")

    def test_carries_conditions_shares_and_options(self) -> None:
        spec = toys.play.compose(Play())
        shares = spec.task("split").for_each
        assert [str(item) for item in spec.task("last").conditions] == ["judge.score >= 0.4"]
        assert shares is not None
        assert shares.shares == 2
        assert spec.task("work").retries == Retries(limit=2, backoff_seconds=0.01)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda spec: spec["tasks"][1]["inputs"]["words"][0].update(port="wrods"), "did you mean 'words'"),
            (lambda spec: spec["tasks"][1].update(component="wrok"), "did you mean 'work'"),
            (lambda spec: spec["tasks"][0].update(name="again"), "duplicate task name 'again'"),
            (lambda spec: spec["tasks"][0].update(after=["last"]), "in a cycle"),
            (lambda spec: spec["tasks"][5]["conditions"][0]["metric"].update(port="sc0re"), "did you mean 'score'"),
        ],
    )
    def test_read_from_json_is_checked_again(self, change: Callable[[Any], None], message: str) -> None:
        content = json.loads(toys.play.compose(Play()).to_json())
        change(content)
        with pytest.raises(CompositionError, match=message):
            PipelineSpec.from_json(json.dumps(content))

    def test_is_frozen(self) -> None:
        spec = toys.play.compose(Play())
        with pytest.raises(ValidationError, match="frozen"):
            spec.tasks[0].name = "other"

    def test_of_a_component_describes_ports_and_metrics(self) -> None:
        spec = judge.spec
        assert isinstance(spec, ComponentSpec)
        assert [port.name for port in spec.outputs] == ["model", "metrics"]
        assert [metric.name for metric in spec.metrics] == ["score"]
        assert ComponentSpec.model_validate_json(spec.model_dump_json()) == spec

    def test_a_metric_of_several_shares_can_not_decide(self) -> None:
        data = toys.play.compose(Play()).model_dump(mode="json")
        for each in data["components"]:
            each["distribution"]["mode"] = "shards"
        next(task for task in data["tasks"] if task["name"] == "judge")["for_each"] = {"shares": 2}
        with pytest.raises(CompositionError, match=r"task 'last': .* runs in 2 shares, each with a number of its own"):
            PipelineSpec.model_validate(data)


class TestArtifactTypes:
    def test_a_subclass_fits_where_its_base_is_wanted(self) -> None:
        class Pictures(Dataset):
            pass

        assert Pictures.artifact_type().fits(Dataset.artifact_type())
        assert Pictures.artifact_type().fits(Artifact.artifact_type())
        assert not Dataset.artifact_type().fits(Pictures.artifact_type())
        assert not Model.artifact_type().fits(Dataset.artifact_type())

    def test_another_version_does_not_fit(self) -> None:
        newer = Dataset.artifact_type().model_copy(update={"version": "2"})
        assert not newer.fits(Dataset.artifact_type())

    def test_other_metadata_does_not_fit(self) -> None:
        other = Dataset.artifact_type().model_copy(update={"metadata": {"type": "object"}})
        assert not other.fits(Dataset.artifact_type())

    def test_have_no_path_while_composing(self) -> None:
        with pytest.raises(Exception, match="has no path while a pipeline is composed"):
            print(Dataset().path)


class TestDeclaringAComponent:
    def declare(self, **changes: Any) -> None:
        component(
            **{
                "name": "write",
                "version": "1",
                "description": "",
                "parameters": WriteParameters,
                "inputs": toys.WriteInputs,
                "outputs": toys.WriteOutputs,
                "main": "tests.toys:write_main",
                "image": "toys",
                **changes,
            }
        )

    def test_metrics_need_somewhere_to_be_written(self) -> None:
        class Numbers(Outputs):
            score: Metric

        with pytest.raises(CompositionError, match="needs an output `metrics: Metrics`"):
            self.declare(outputs=Numbers)

    def test_uncached_when_names_parameters(self) -> None:
        with pytest.raises(CompositionError, match="unknown parameters \\['source'\\]"):
            self.declare(uncached_when=("source",))
        with pytest.raises(CompositionError, match=r"unknown parameters \['outside.deeper'\]"):
            self.declare(uncached_when=("outside.deeper", "outside"))

    def test_inputs_are_artifacts(self) -> None:
        class Wrong(Inputs):
            words: Path

        with pytest.raises(CompositionError, match="input 'words' must be an Artifact"):
            self.declare(inputs=Wrong)

    @pytest.mark.parametrize("annotation", [list[Dataset], tuple[Dataset], tuple[Dataset, Model], Dataset | Model])
    def test_inputs_are_one_artifact_or_any_number(self, annotation: Any) -> None:
        wrong = create_model("Wrong", __base__=Inputs, words=(annotation, ...))
        with pytest.raises(CompositionError, match="input 'words' must be an Artifact"):
            self.declare(inputs=wrong)

    @pytest.mark.parametrize("name", ["self", "parameters"])
    def test_inputs_are_not_called_like_arguments_of_the_call(self, name: str) -> None:
        wrong = create_model("Wrong", __base__=Inputs, **anything({name: (Dataset, ...)}))
        with pytest.raises(CompositionError, match=f"an input can't be called '{name}'"):
            self.declare(inputs=wrong)

    def test_metrics_are_written_to_metrics(self) -> None:
        wrong = create_model("Wrong", __base__=Outputs, metrics=(Dataset, ...), score=(Metric, ...))
        with pytest.raises(CompositionError, match="needs an output `metrics: Metrics`"):
            self.declare(outputs=wrong)

    def test_secrets_are_no_parameters(self) -> None:
        class Login(Parameters):
            password: SecretStr = SecretStr("open sesame")

        class Wrong(Parameters):
            logins: tuple[Login, ...] = (Login(),)

        with pytest.raises(CompositionError, match=r"parameter Login\.password is a secret") as caught:
            self.declare(parameters=Wrong)
        assert "sesame" not in str(caught.value)

    def test_sets_are_no_parameters(self) -> None:
        wrong = create_model("Wrong", __base__=Parameters, words=(frozenset[str], frozenset()))
        with pytest.raises(CompositionError, match=r"parameter Wrong\.words is a set"):
            self.declare(parameters=wrong)

    def test_parameters_have_a_json_form(self) -> None:
        wrong = create_model("Wrong", __base__=Parameters, words=(Callable[[], int], ...))
        with pytest.raises(CompositionError, match="a parameter has no JSON form"):
            self.declare(parameters=wrong)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"parameters": Path}, "parameters must be a subclass of Parameters"),
            ({"outputs": Parameters}, "outputs must be a subclass of Outputs"),
            ({"main": "tests.toys"}, "main: String should match pattern"),
            ({"name": "Write It"}, "name: String should match pattern"),
            ({"resources": 3}, "resources: Input should be a valid dictionary or instance of Resources"),
        ],
    )
    def test_mistakes_are_told_at_the_authors_line(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(CompositionError, match=message) as caught:
            self.declare(**changes)
        assert caught.value.location.startswith(f"{__file__}:")

    def test_outputs_are_artifacts_or_metrics(self) -> None:
        class Wrong(Outputs):
            words: str

        with pytest.raises(CompositionError, match="output 'words' must be an Artifact or a Metric"):
            self.declare(outputs=Wrong)

    def test_two_components_of_one_name_do_not_mix(self) -> None:
        class OtherParameters(Parameters):
            pass

        other = component(
            name="write",
            version="2",
            description="",
            parameters=OtherParameters,
            inputs=toys.WriteInputs,
            outputs=toys.WriteOutputs,
            main="tests.toys:write_main",
            image="toys",
        )

        def wrong(config: Play) -> None:
            write(config.write)
            other.with_options(name="other")(OtherParameters())  # here

        assert "two different components are called 'write'" in complaint(wrong)


def test_split_takes_its_options_one_after_the_other() -> None:
    @pipeline
    def both(config: Play) -> None:
        written = write(config.write)
        split.with_options(shares=3).with_options(name="cut", cache=False)(config.split, words=written.words)
        judge.with_options(after=(written,))(JudgeParameters(), words=written.words)

    spec = both.compose(Play())
    cut = spec.task("cut")
    assert cut.for_each is not None
    assert (cut.for_each.shares, cut.cache) == (3, False)
    assert spec.task("judge").after == ("write",)
