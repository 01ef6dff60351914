"""Processing steps: arguments, hosts, inputs and outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from millrace.compilers.sagemaker.check import check_document
from millrace.compilers.sagemaker.processing import chunks
from millrace.errors import UnsupportedError
from millrace.pipelines.image_classification import ImageClassification, image_classification
from millrace.runtime.sagemaker.hyperparameters import as_json
from millrace.specs import Distribution, ForEach, OpenField, PipelineSpec, Resources, Retries, RuntimeParameter
from tests.compilers.kubeflow import flows
from tests.compilers.sagemaker.definitions import compiled, of_digits, searching, with_task
from tests.toys import Play, play


def opened(spec: PipelineSpec, name: str, kind: str, default: Any, path: str) -> PipelineSpec:
    task, _, below = path.partition(".")
    parameter = RuntimeParameter.model_validate(
        {"name": name, "kind": kind, "default": default, "fills": [OpenField(task=task, path=below)]}
    )
    return spec.model_copy(update={"runtime_parameters": (*spec.runtime_parameters, parameter)})


class TestArguments:
    def test_a_container_is_told_component_task_and_parameters(self) -> None:
        words = compiled(play.compose(Play())).words("judge")
        assert words == ["tests.toys:judge", "--task", "judge", "--parameters", '{"score":0.5}']

    @given(st.dictionaries(st.text(max_size=20), st.text(max_size=400), max_size=8))
    def test_parameters_of_any_length_come_whole_in_pieces_that_are_no_options(self, values: dict[str, str]) -> None:
        parameters: dict[str, JsonValue] = {**values}
        pieces = chunks(as_json(parameters))
        assert json.loads("".join(pieces)) == values
        assert all(1 <= len(piece) <= 256 for piece in pieces)
        assert not any(piece.startswith("-") for piece in pieces)
        assert all(len(piece.splitlines()) == 1 for piece in pieces)

    def test_a_row_of_dashes_ends_no_argument(self) -> None:
        text = as_json({"text": "x" * 240 + "-" * 15 + "y" * 300})
        assert "".join(chunks(text)) == text
        assert [piece[0] for piece in chunks(text)] == ["{", "x", "y"]

    def test_open_fields_come_by_their_paths(self) -> None:
        spec = opened(searching(), "quantize.scheme", "string", "float16", "quantize.scheme")
        spec = opened(spec, "evaluate.top_k", "integer", 5, "evaluate.top_k")
        definition = compiled(spec)
        scheme = {"Std:Join": {"On": "=", "Values": ["scheme", {"Get": "Parameters.quantize_scheme"}]}}
        assert definition.words("quantize")[-4:] == ["--open-text", scheme, "--archive", "model=."]
        top_k = {"Std:Join": {"On": "=", "Values": ["top_k", {"Get": "Parameters.evaluate_top_k"}]}}
        assert definition.words("evaluate")[-4:] == ["--open", top_k, "--archive", "model=."]

    def test_parameters_that_are_too_long_are_refused(self) -> None:
        spec = play.compose(Play.model_validate({"write": {"text": "x" * 30_000}}))
        with pytest.raises(UnsupportedError, match=r"tasks\.write: its parameters take 12\d arguments"):
            compiled(spec)


class TestHosts:
    def test_each_share_is_a_host_with_its_own_shards(self) -> None:
        definition = of_digits()
        inputs = definition.inputs("preprocess")
        assert definition.request("preprocess")["ProcessingResources"]["ClusterConfig"]["InstanceCount"] == 2
        made = {"Get": "Steps.shard.ProcessingOutputConfig.Outputs['shards'].S3Output.S3Uri"}
        assert inputs["shards"]["S3Uri"] == {"Std:Join": {"On": "/", "Values": [made, "plan.json"]}}
        assert inputs["shards"]["S3DataDistributionType"] == "FullyReplicated"
        assert inputs["shards+shards"]["S3Uri"] == {"Std:Join": {"On": "/", "Values": [made, "shards/"]}}
        assert inputs["shards+shards"]["S3DataDistributionType"] == "ShardedByS3Key"
        assert inputs["shards+shards"]["LocalPath"] == "/opt/ml/processing/input/shards+shards"
        assert inputs["dataset"]["S3DataDistributionType"] == "FullyReplicated"

    def test_one_share_takes_the_plan_as_it_is(self) -> None:
        inputs = compiled(with_task(searching(), "preprocess", for_each=ForEach(shares=1))).inputs("preprocess")
        assert set(inputs) == {"shards", "dataset"}

    @pytest.mark.parametrize(("shards", "hosts"), [(2, 7), ({"train": 2, "validation": 1, "test": 1}, 5)])
    def test_more_hosts_than_shards_are_refused(self, shards: object, hosts: int) -> None:
        config = ImageClassification.model_validate(
            {"manifest": {"source": "s3://bucket/x"}, "shard": {"shards": shards}, "workers": hosts}
        )
        with pytest.raises(UnsupportedError, match=rf"tasks\.preprocess: {hosts} hosts for fewer shards .*raise shard"):
            compiled(image_classification.compose(config))
        compiled(image_classification.compose(config.model_copy(update={"workers": hosts - 1})))

    def test_hosts_that_would_write_one_metrics_file_are_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tasks\.judge: 2 shares, each of which would write the same"):
            compiled(with_task(play.compose(Play()), "judge", for_each=ForEach(shares=2)))

    def test_ranks_are_for_trainings(self) -> None:
        with pytest.raises(UnsupportedError, match=r"tasks\.work: distribution asks for 2 hosts"):
            compiled(with_task(play.compose(Play()), "work", distribution=Distribution(hosts=2)))


class TestInputsAndOutputs:
    def test_outputs_are_below_the_execution_and_read_where_they_were_made(self) -> None:
        definition = compiled(play.compose(Play()), prefix="team/runs")
        (words, _) = definition.request("write")["ProcessingOutputConfig"]["Outputs"]
        assert words == {
            "OutputName": "words",
            "S3Output": {
                "S3Uri": {
                    "Std:Join": {
                        "On": "/",
                        "Values": [
                            "s3://store/team/runs/play",
                            {"Get": "Execution.PipelineExecutionId"},
                            "write/words",
                        ],
                    }
                },
                "LocalPath": "/opt/ml/processing/output/words",
                "S3UploadMode": "EndOfJob",
            },
        }
        read = definition.inputs("work")["words"]["S3Uri"]
        assert read == {"Get": "Steps.write.ProcessingOutputConfig.Outputs['words'].S3Output.S3Uri"}

    def test_ports_that_take_many_are_numbered(self) -> None:
        inputs = compiled(flows.many_producers.compose(flows.Config())).inputs("both")
        assert list(inputs) == ["words.0", "words.1", "words.2"]
        assert inputs["words.2"]["LocalPath"] == "/opt/ml/processing/input/words.2"

    def test_more_than_ten_inputs_are_refused(self) -> None:
        spec = flows.many_producers.compose(flows.Config())
        words = spec.task("single").inputs["words"] * 11
        with pytest.raises(
            UnsupportedError, match=r"tasks\.single: 11 inputs; a processing job takes 10.*`gather`, each of 10"
        ):
            compiled(with_task(spec, "single", inputs={"words": words}))

    def test_metrics_are_a_property_file(self) -> None:
        definition = compiled(play.compose(Play()))
        assert definition.steps["judge"]["PropertyFiles"] == [
            {"PropertyFileName": "metrics", "OutputName": "metrics", "FilePath": "metrics.json"}
        ]
        assert "PropertyFiles" not in definition.steps["work"]

    def test_a_models_archive_is_named(self) -> None:
        definition = of_digits()
        assert definition.words("evaluate")[-2:] == ["--archive", "model=."]
        assert definition.inputs("evaluate")["model"]["S3Uri"] == {"Get": "Steps.train.ModelArtifacts.S3ModelArtifacts"}
        whole = of_digits(training={"compression": "none"})
        assert "--archive" not in whole.words("evaluate")

    @pytest.mark.parametrize(
        ("compression", "end", "archive"),
        [("gzip", ["output/output.tar.gz"], ["--archive", "words.0=logs"]), ("none", ["output/data/logs"], [])],
    )
    def test_other_outputs_of_a_training_are_in_its_second_archive(
        self, compression: str, end: list[str], archive: list[str]
    ) -> None:
        spec = searching()
        logs = spec.task("evaluate").inputs["model"][0].model_copy(update={"port": "logs"})
        many = flows.many_producers.compose(flows.Config())
        reader = many.task("single").model_copy(update={"inputs": {"words": (logs,)}})
        joined = spec.model_copy(
            update={
                "tasks": (*spec.tasks, reader),
                "components": (*spec.components, many.component_of(reader)),
            }
        )
        definition = compiled(joined, training={"compression": compression})
        assert definition.inputs("single")["words.0"]["S3Uri"]["Std:Join"]["Values"] == [
            {"Get": "Steps.train.OutputDataConfig.S3OutputPath"},
            {"Get": "Steps.train.TrainingJobName"},
            *end,
        ]
        assert definition.words("single")[5:] == archive

    def test_what_begins_alike_is_not_taken_along(self) -> None:
        spec = play.compose(Play())
        component = spec.component_of(spec.task("write"))
        twin = component.outputs[0].model_copy(update={"name": "words_again"})
        changed = component.model_copy(update={"outputs": (*component.outputs, twin)})
        components = tuple(changed if one.name == "write" else one for one in spec.components)
        uri = compiled(spec.model_copy(update={"components": components})).inputs("work")["words"]["S3Uri"]
        assert uri["Std:Join"]["On"] == ""
        assert uri["Std:Join"]["Values"][1:] == ["/"]

    def test_places_below_such_a_folder_have_one_slash(self) -> None:
        spec = searching()
        component = spec.component_of(spec.task("shard"))
        (shards, *others) = component.outputs
        twin = shards.model_copy(update={"name": "shards_again"})
        changed = component.model_copy(update={"outputs": (shards, twin, *others)})
        components = tuple(changed if one.name == "shard" else one for one in spec.components)
        inputs = compiled(spec.model_copy(update={"components": components})).inputs("preprocess")
        assert inputs["shards"]["S3Uri"]["Std:Join"]["Values"][1:] == ["/plan.json"]
        assert inputs["shards+shards"]["S3Uri"]["Std:Join"]["Values"][1:] == ["/shards/"]


class TestSettings:
    def test_a_tasks_own_win_over_those_of_all(self) -> None:
        definition = compiled(
            play.compose(Play()),
            job={"instance": "ml.m5.xlarge", "volume_gib": 50, "timeout_minutes": 30, "environment": {"A": "1"}},
            tasks={"work": {"instance": "ml.c5.xlarge", "timeout_minutes": 1.5, "environment": {"B": "2"}}},
        )
        request = definition.request("work")
        cluster = request["ProcessingResources"]["ClusterConfig"]
        assert cluster == {"InstanceCount": 1, "InstanceType": "ml.c5.xlarge", "VolumeSizeInGB": 50}
        assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 90}
        assert request["Environment"] == {"A": "1", "B": "2"}
        assert definition.request("judge")["Environment"] == {"A": "1"}

    def test_resources_choose_the_machine(self) -> None:
        spec = with_task(play.compose(Play()), "work", resources=Resources(cpus=8, memory_gib=20, disk_gib=7))
        cluster = compiled(spec).request("work")["ProcessingResources"]["ClusterConfig"]
        assert cluster["InstanceType"].endswith("2xlarge")
        assert cluster["VolumeSizeInGB"] == 7

    def test_network_keys_and_tags(self) -> None:
        request = compiled(
            play.compose(Play()),
            network={"subnets": ["subnet-1"], "security_groups": ["sg-1"], "isolate": True, "encrypt": True},
            volume_key="alias/volumes",
            output_key="alias/outputs",
            tags={"team": "vision", "cost": "7"},
        ).request("write")
        assert request["NetworkConfig"] == {
            "EnableInterContainerTrafficEncryption": True,
            "EnableNetworkIsolation": True,
            "VpcConfig": {"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
        }
        assert request["ProcessingResources"]["ClusterConfig"]["VolumeKmsKeyId"] == "alias/volumes"
        assert request["ProcessingOutputConfig"]["KmsKeyId"] == "alias/outputs"
        assert request["Tags"] == [{"Key": "cost", "Value": "7"}, {"Key": "team", "Value": "vision"}]

    def test_machines_with_storage_of_their_own_take_no_key(self) -> None:
        chosen = {"work": {"instance": "ml.g4dn.xlarge", "volume_gib": 100}}
        definition = compiled(play.compose(Play()), volume_key="alias/volumes", tasks=chosen)
        clusters = [definition.request(name)["ProcessingResources"]["ClusterConfig"] for name in ("work", "write")]
        assert ["VolumeKmsKeyId" in cluster for cluster in clusters] == [False, True]
        assert check_document(definition.text) == []
        chosen["work"]["volume_gib"] = 200
        with pytest.raises(
            UnsupportedError, match=r"target\.tasks\.work\.volume_gib: 200 GiB .* has 125 GB of its own"
        ):
            compiled(play.compose(Play()), tasks=chosen)

    def test_what_a_tasks_service_has_no_place_for_is_refused(self) -> None:
        registry = {"kind": "registry", "registration": {"group": "digits"}}
        of_digits(serving=registry, tasks={"deploy": {"retries": 1}})
        with pytest.raises(UnsupportedError, match=r"target\.tasks\.deploy\.instance: a model that is registered only"):
            of_digits(serving=registry, tasks={"deploy": {"instance": "ml.m5.large"}})

    def test_an_environment_that_is_too_long_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match=r"target\.tasks\.work\.environment\.KEY: 257 characters"):
            compiled(play.compose(Play()), tasks={"work": {"environment": {"KEY": "x" * 257}}})

    def test_a_time_limit_that_no_job_has_is_refused(self) -> None:
        with pytest.raises(UnsupportedError, match="may run 12960 minutes at most, given 20000"):
            compiled(play.compose(Play()), job={"timeout_minutes": 20_000})


class TestCacheAndRetries:
    def test_equal_tasks_are_not_run_again(self) -> None:
        definition = compiled(play.compose(Play()), cache_days=7, tasks={"work": {"cache": False}})
        assert definition.steps["write"]["CacheConfig"] == {"Enabled": True, "ExpireAfter": "P7D"}
        assert "CacheConfig" not in definition.steps["work"]

    def test_what_reaches_outside_runs_each_time(self) -> None:
        spec = image_classification.compose(
            ImageClassification.model_validate({"manifest": {"source": "s3://bucket/flowers"}})
        )
        definition = compiled(spec)
        assert "CacheConfig" not in definition.steps["manifest"]
        assert "CacheConfig" in definition.steps["shard"]
        spec = opened(play.compose(Play()), "write.outside", "string", "x", "write.outside")
        assert "CacheConfig" not in compiled(spec).steps["write"]

    def test_faults_of_the_service_are_tried_again(self) -> None:
        spec = with_task(play.compose(Play()), "work", retries=Retries(limit=3, backoff_seconds=45, factor=1.5))
        policies = compiled(spec).steps["work"]["RetryPolicies"]
        assert policies == [
            {
                "ExceptionType": ["Step.SERVICE_FAULT", "Step.THROTTLING"],
                "IntervalSeconds": 45,
                "BackoffRate": 1.5,
                "MaxAttempts": 3,
            },
            {
                "ExceptionType": [
                    "SageMaker.JOB_INTERNAL_ERROR",
                    "SageMaker.CAPACITY_ERROR",
                    "SageMaker.RESOURCE_LIMIT",
                ],
                "IntervalSeconds": 45,
                "BackoffRate": 1.5,
                "MaxAttempts": 3,
            },
        ]
        assert "RetryPolicies" not in compiled(spec, job={"retries": 0}).steps["work"]

    def test_more_attempts_than_the_service_has_are_refused(self) -> None:
        spec = with_task(play.compose(Play()), "work", retries=Retries(limit=25))
        with pytest.raises(UnsupportedError, match=r"tasks\.work\.retries\.limit=25.*target\.tasks\.work\.retries=20"):
            compiled(spec)
        compiled(spec, tasks={"work": {"retries": 20}})


class TestPlaces:
    @pytest.mark.parametrize("source", ["flowers", "/data/flowers", "./flowers", "file:///data", "gs://bucket/flowers"])
    def test_a_source_that_no_job_can_read_is_refused(self, source: str) -> None:
        config = ImageClassification.model_validate({"manifest": {"source": source}})
        with pytest.raises(UnsupportedError, match=r"manifest\.source=.*give manifest\.source=s3://BUCKET/PREFIX"):
            compiled(image_classification.compose(config))

    def test_the_command_that_copies_fits_a_file_or_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a table.csv").touch()
        for source, command in {
            f"{tmp_path}/a table.csv": f"aws s3 cp '{tmp_path}/a table.csv' 's3://BUCKET/PREFIX/a table.csv'",
            "./questions.csv": "aws s3 cp ./questions.csv s3://BUCKET/PREFIX/questions.csv) and give manifest.source="
            "s3://BUCKET/PREFIX/questions.csv",
            f"file://{tmp_path}": f"aws s3 sync {tmp_path} s3://BUCKET/PREFIX)",
        }.items():
            config = ImageClassification.model_validate({"manifest": {"source": source}})
            with pytest.raises(UnsupportedError, match=re.escape(command)):
                compiled(image_classification.compose(config))

    def test_a_path_of_this_machine_is_refused_for_any_component(self) -> None:
        spec = play.compose(Play.model_validate({"write": {"outside": "/etc/motd"}}))
        with pytest.raises(UnsupportedError, match=r"write\.outside=/etc/motd: a path of this machine"):
            compiled(spec)
        compiled(play.compose(Play.model_validate({"write": {"outside": "models:production"}})))

    def test_a_source_that_an_isolated_job_can_not_reach_is_refused(self) -> None:
        config = ImageClassification.model_validate({"manifest": {"source": "s3://bucket/x"}})
        with pytest.raises(UnsupportedError, match=r"target\.network\.isolate=true: manifest\.source="):
            compiled(image_classification.compose(config), network={"isolate": True})
