"""`millrace compile` as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from millrace import __version__
from millrace.targets.kubeflow import Training

ROOT = Path(__file__).parents[2]
PLAY = ("--config-dir", "my_config", "pipeline=play")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a pipeline and a component of the user's own."""
    for group in ("pipeline", "component"):
        (tmp_path / "my_config" / group).mkdir(parents=True)
    (tmp_path / "my_config" / "pipeline" / "play.yaml").write_text(
        "# @package _global_\npipeline: {name: play, function: 'tests.toys:play'}\n"
    )
    (tmp_path / "my_config" / "component" / "shout.yaml").write_text("entry: tests.toys:work\n")
    return tmp_path


def compile_here(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millrace", "compile", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def refused(folder: Path, *words: str) -> str:
    """What is said about a mistake: on stderr, with exit code 2 and without a traceback."""
    answer = compile_here(folder, *words)
    assert answer.returncode == 2, answer.stdout
    assert "Traceback" not in answer.stderr
    return answer.stderr


def specs(text: str) -> list[dict[str, dict[str, object]]]:
    return list(yaml.safe_load_all(text))


class TestPipelines:
    def test_a_pipeline_is_written_and_told_about(self, project: Path) -> None:
        answer = compile_here(project, *PLAY, "target=kubeflow", "runtime=[judge.score]")
        assert answer.returncode == 0, answer.stderr
        path = project / "build" / "play.kubeflow.yaml"
        assert answer.stdout.splitlines() == [
            f"build/play.kubeflow.yaml: {len(path.read_bytes()) / 1000:.1f} KB, 6 tasks, "
            "for Kubeflow Pipelines 2.17 or later",
            "image: millrace/toys:0.1.0",
            "open: judge_score = 0.5 (float)",
            "next: millrace upload document=build/play.kubeflow.yaml --config-dir my_config target=kubeflow",
        ]
        assert specs(path.read_text())[0]["pipelineInfo"]["name"] == "play"
        assert [item.name for item in path.parent.iterdir()] == [path.name]

    def test_it_can_be_printed_and_written_elsewhere(self, project: Path) -> None:
        printed = compile_here(project, *PLAY, "target=kubeflow", "output=-")
        written = compile_here(project, *PLAY, "target=kubeflow", "output=some/where.yaml")
        assert written.returncode == 0, written.stderr
        assert (project / "some" / "where.yaml").read_text() == printed.stdout
        assert not (project / "build").exists()

    def test_a_target_of_ones_own(self, project: Path) -> None:
        (project / "my_config" / "target").mkdir()
        (project / "my_config" / "target" / "production.yaml").write_text(
            "defaults:\n  - /defaults@_here_: target_kubeflow\n\n"
            "name: kubeflow\npipeline_root: s3://team/runs\ncompat: 2.16\n"
            "tasks: {judge: {node_selector: {pool: gpu}, volume_claims: [{claim: data, path: /data}]}}\n"
        )
        answer = compile_here(project, *PLAY, "target=production", "output=-", "target.tasks.judge.shared_memory_gib=2")
        assert answer.returncode == 0, answer.stderr
        pipeline, platform = yaml.safe_load_all(answer.stdout)
        assert pipeline["defaultPipelineRoot"] == "s3://team/runs"
        pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-judge"]
        assert pod["nodeSelector"] == {"labels": {"pool": "gpu"}}
        assert pod["emptyDirMounts"][0]["sizeLimit"] == "2048Mi"

    def test_digests_of_pushed_images_are_used(self, project: Path) -> None:
        (project / "build").mkdir()
        reference = f"registry.example.org/millrace/toys@sha256:{'a' * 64}"
        (project / "build" / "images.json").write_text(f'{{"toys": "{reference}"}}')
        answer = compile_here(project, *PLAY, "target=kubeflow")
        assert f"image: {reference}" in answer.stdout.splitlines()

    def test_the_config_shows_what_compile_reads(self, project: Path) -> None:
        answer = compile_here(project, *PLAY, "target=kubeflow", "--cfg", "job")
        shown = yaml.safe_load(answer.stdout)
        assert {key: shown[key] for key in ("runtime", "compat", "component", "output")} == {
            "runtime": [],
            "compat": None,
            "component": None,
            "output": None,
        }
        assert shown["target"]["training"] == Training().model_dump(mode="json")

    def test_a_sweep_overwrites_nothing(self, project: Path) -> None:
        words = (*PLAY, "target=kubeflow", "--multirun", "judge.score=0.1,0.9")
        assert "build/play.kubeflow.yaml was written by another job of this sweep" in refused(project, *words)
        answer = compile_here(project, *words, "output=build/${judge.score}.yaml")
        assert answer.returncode == 0, answer.stderr
        assert {path.name for path in (project / "build").glob("0*")} == {"0.1.yaml", "0.9.yaml"}

    def test_a_sweep_over_targets_settings(self, project: Path) -> None:
        words = ("--multirun", "compat=2.14,2.17", "output=build/play-${compat}.yaml")
        answer = compile_here(project, *PLAY, "target=kubeflow", *words)
        assert answer.returncode == 0, answer.stderr
        assert "for Kubeflow Pipelines 2.14 or later" in answer.stdout


class TestComponents:
    @pytest.mark.parametrize("name", ["shout", "tests.toys:work"])
    def test_a_component_of_ones_own(self, project: Path, name: str) -> None:
        answer = compile_here(project, "--config-dir", "my_config", f"component={name}", "target=kubeflow")
        assert answer.returncode == 0, answer.stderr
        path = project / "build" / "work.component.yaml"
        executors: Any = specs(path.read_text())[0]["deploymentSpec"]["executors"]
        assert executors["exec-work"]["container"]["command"] == ["millrace", "exec", "tests.toys:work"]
        assert answer.stdout.splitlines()[-1] == (
            "next, in a pipeline of yours: work = kfp.components.load_component_from_file('build/work.component.yaml')"
        )

    def test_an_unknown_one_is_refused(self, project: Path) -> None:
        assert "unknown component 'trian': did you mean 'train'?" in refused(
            project, "component=trian", "target=kubeflow"
        )

    def test_its_parameters_are_open_anyway(self, project: Path) -> None:
        assert "leave runtime=[...] out" in refused(
            project, "component=train", "target=kubeflow", "runtime=[train.epochs]"
        )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("millrace compile comp", ["compat=", "component="]),
        ("millrace compile component=tra", ["component=train"]),
        ("millrace compile --config-dir my_config component=sho", ["component=shout"]),
        ("millrace compile target=kubeflow target.pipeline_r", ["target.pipeline_root="]),
        ("millrace run comp", []),
    ],
)
def test_a_shell_completes_keys(project: Path, line: str, found: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "millrace", "-sc", "query=bash"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COMP_LINE": line, "COMP_POINT": str(len(line))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.stdout.split() == found, answer.stderr


class TestSageMaker:
    def test_a_definition_is_written_and_told_about(self, project: Path) -> None:
        answer = compile_here(project, *PLAY, "target=sagemaker", "runtime=[judge.score]")
        assert answer.returncode == 0, answer.stderr
        path = project / "build" / "play.sagemaker.json"
        assert answer.stdout.splitlines() == [
            f"build/play.sagemaker.json: {len(path.read_bytes()) / 1000:.1f} KB, 6 tasks, for SageMaker Pipelines",
            f"image: millrace/toys:{__version__}",
            "open: role (string, must be given; target.role fixes it)",
            "open: bucket (string, must be given; target.bucket fixes it)",
            "open: judge_score = 0.5 (float)",
            "note: SageMaker pulls images from ECR only: `millrace build "
            "push=ACCOUNT.dkr.ecr.us-east-1.amazonaws.com/millrace/`, and compile again; rehearsals run as it is",
            "next: millrace upload document=build/play.sagemaker.json --config-dir my_config target=sagemaker",
        ]
        assert [one["Name"] for one in json.loads(path.read_text())["Parameters"]] == ["role", "bucket", "judge_score"]

    def test_images_of_ecr_are_fine(self, project: Path) -> None:
        images = "target.images.prefix=123456789012.dkr.ecr.eu-central-1.amazonaws.com/millrace/"
        answer = compile_here(project, *PLAY, "target=sagemaker", images, "target.region=eu-central-1")
        assert answer.returncode == 0, answer.stderr
        assert "note: " not in answer.stdout

    def test_a_key_that_machines_do_not_take_is_told(self, project: Path) -> None:
        key, machine = "target.volume_key=alias/volumes", "target.tasks.work.instance=ml.g4dn.xlarge"
        answer = compile_here(project, *PLAY, "target=sagemaker", key, machine)
        assert answer.returncode == 0, answer.stderr
        assert "note: ml.g4dn.xlarge: target.volume_key is not used there" in answer.stdout

    def test_images_of_another_region_are_told(self, project: Path) -> None:
        images = "target.images.prefix=123456789012.dkr.ecr.eu-central-1.amazonaws.com/millrace/"
        answer = compile_here(project, *PLAY, "target=sagemaker", images)
        assert answer.returncode == 0, answer.stderr
        assert "is in another than target.region=us-east-1: `millrace build push=ACCOUNT.dkr.ecr.us-" in answer.stdout

    def test_it_can_be_printed(self, project: Path) -> None:
        answer = compile_here(project, *PLAY, "target=sagemaker", "output=-")
        assert json.loads(answer.stdout)["Version"] == "2020-12-01"


class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((), "target: say where the pipeline shall run: target=kubeflow"),
            (("target=sagemaker", "compat=2.16"), "compat: a version of Kubeflow Pipelines; SageMaker has none"),
            (("target=sagemaker", "component=shout"), "component=shout: a definition of SageMaker's has no components"),
            (("target=sagemaker", "target.tasks.werk.cache=false"), "target.tasks.werk: unknown task: did you mean"),
            (("target=sagemaker", "target.job.instance=ml.m5.tiny"), "ml.m5.tiny"),
            (("target=sagemaker", "target.region=europe"), "target.region: "),
            (("target=sagemaker", "write.outside=/etc/motd"), "write.outside=/etc/motd: a path of this machine"),
            (("target=kubeflow", "runtime=[judge.scorn]"), "did you mean"),
            (("target=kubeflow", "compat=2.3"), "compat: "),
            (("target=kubeflow", "target.tasks.werk.cache=false"), "target.tasks.werk: unknown task: did you mean"),
            (("target=kubeflow", "target.images.tag=latest"), "the tag `latest` means another image tomorrow"),
            (("target=kubeflow", "target.pod.labels={team: 'a b'}"), "team"),
            (("target=kubeflow", "target.nodes=3"), "target.nodes: unknown key"),
            (("target=kubeflow", "output=my_config/pipeline/play.yaml/x"), "output: "),
        ],
    )
    def test_they_are_told_in_one_message(self, project: Path, words: tuple[str, ...], told: str) -> None:
        assert told in refused(project, *PLAY, *words)

    def test_everything_a_backend_would_refuse_is_told_at_once(self, project: Path) -> None:
        (project / "my_config" / "pipeline" / "long.yaml").write_text(
            f"# @package _global_\ndefaults: [play]\nwrite: {{text: {'word' * 40_000}}}\n"
        )
        told = refused(
            project,
            *("--config-dir", "my_config", "pipeline=long", "target=kubeflow", "target.pod.labels={team: 'a b'}"),
        )
        labels, size = sorted(told.removeprefix("error: ").splitlines())
        assert "labels.team and 5 more: team=a b is no label" in labels
        assert size.startswith("root.dag.tasks.write.inputs.parameters")
        assert "131,071" in size
        assert not (project / "build").exists()

    def test_without_kfp_the_line_that_installs_it(self, project: Path) -> None:
        (project / "kfp.py").write_text("raise ModuleNotFoundError(name='kfp')\n")
        answer = compile_here(project, *PLAY, "target=kubeflow", PYTHONPATH=f"{project}{os.pathsep}{ROOT}")
        assert answer.returncode == 2
        assert answer.stderr == ("error: target=kubeflow needs the package 'kfp': pip install -e '.[kubeflow]'\n")


def test_nothing_is_asked_for_over_a_network(project: Path) -> None:
    (project / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*words, **more):\n"
        "    raise AssertionError('a network was used')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
    )
    answer = compile_here(project, *PLAY, "target=kubeflow", PYTHONPATH=f"{project}{os.pathsep}{ROOT}")
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("mistake", ["train.epochs=3", "foo=1", "model=resnet50"])
def test_overrides_that_would_do_nothing_are_refused(tmp_path: Path, mistake: str) -> None:
    told = refused(tmp_path, "component=train", "target=kubeflow", mistake)
    assert f"{mistake.partition('=')[0]} has no effect with component=train" in told
    assert not (tmp_path / "build").exists()


@pytest.mark.parametrize("mistake", ["target.pipeline_root=/local/x", "target.namespace=Team_A"])
def test_names_that_kubernetes_would_refuse(tmp_path: Path, mistake: str) -> None:
    assert mistake.partition("=")[0] in refused(tmp_path, "pipeline=digits", "target=kubeflow", mistake)


def test_what_to_do_next_is_told_for_the_same_target(project: Path) -> None:
    (project / "my_config" / "target").mkdir()
    (project / "my_config" / "target" / "lab.yaml").write_text(
        "defaults: [/defaults@_here_: target_kubeflow]\nname: kubeflow\n"
    )
    answer = compile_here(project, *PLAY, "target=lab", "target.cache=false", "output=play.yaml")
    assert (
        "next: millrace upload document=play.yaml --config-dir my_config target=lab target.cache=false" in answer.stdout
    )


def test_a_file_of_ones_own_that_is_no_yaml_is_named(project: Path) -> None:
    file = project / "my_config" / "target" / "lab.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("defaults: [kubeflow\n")
    done = compile_here(project, "--config-dir", "my_config", "target=lab")
    assert done.returncode == 2
    assert "no YAML" in done.stderr
    assert "lab.yaml" in done.stderr
    assert "Traceback" not in done.stderr
