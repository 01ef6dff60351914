"""What each version knows is what its published packages say; documents are parsed with those, too."""

from __future__ import annotations

import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from millrace.compilers.kubeflow.check import check_document
from millrace.compilers.kubeflow.strict import since
from millrace.targets.kubeflow import BackendVersion
from tests.compilers.kubeflow.documents import clean
from tests.conftest import needed

TOOL = Path(__file__).parents[3] / "tools" / "kubeflow-fields"
VERSIONS: list[tuple[BackendVersion, str]] = [("2.14", "2.14.6"), ("2.15", "2.15.2"), ("2.16", "2.16.1")]
PARSE = """
import sys, yaml
from google.protobuf import json_format
sys.path.insert(0, sys.argv[1] + "/kfp/pipeline_spec")
import pipeline_spec_pb2
for text in sys.stdin.read().split("\\x00"):
    pipeline = next(part for part in yaml.safe_load_all(text) if "root" in part)
    try:
        json_format.ParseDict(pipeline, pipeline_spec_pb2.PipelineSpec())
        print("taken")
    except json_format.ParseError:
        print("refused")
"""
LITERALS = ("parameterType: STRING\nschemaVersion", "parameterType: STRING\n        literals: [words]\nschemaVersion")


@cache
def names_of(version: str) -> frozenset[tuple[str, str]]:
    """What the published packages of a version know, as the tool reads them."""
    tool = runpy.run_path(str(TOOL))
    try:
        return frozenset(tool["names"](version))
    except subprocess.CalledProcessError:
        needed("needs pip and a package registry")


def pipeline_errors(text: str, compat: BackendVersion) -> list[str]:
    """Paths of errors that are not in the Kubernetes settings."""
    found = check_document(text, compat)
    return [item.path for item in found if item.severity == "error" and not item.path.startswith("platforms")]


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


@pytest.fixture(scope="module", params=VERSIONS, ids=[compat for compat, _ in VERSIONS])
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A folder into which an old pipeline spec is installed, and its version."""
    compat, version = request.param
    folder = tmp_path_factory.mktemp("old")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    if subprocess.run([*pip, f"kfp-pipeline-spec=={version}"], check=False, capture_output=True).returncode:
        needed("needs pip and a package registry")
    return compat, folder


class TestTheTable:
    @pytest.mark.parametrize(("compat", "version"), VERSIONS)
    def test_is_what_the_packages_say(self, compat: BackendVersion, version: str) -> None:
        known = names_of(version)
        assert len(known) > 200
        for owner, name in known:
            first = since(owner, name)
            assert first is not None
            assert number(first) <= number(compat), (owner, name)

    @pytest.mark.parametrize(
        ("owner", "name", "first"),
        [
            ("ml_pipelines.PipelineSpec", "root", "2.14"),
            ("ml_pipelines.ComponentSpec", "task_config_passthroughs", "2.15"),
            ("ml_pipelines.ParameterType.ParameterTypeEnum", "TASK_CONFIG", "2.15"),
            ("ml_pipelines.ComponentInputsSpec.ParameterSpec", "literals", "2.16"),
            ("kfp_kubernetes.KubernetesExecutorConfig", "security_context", "2.16"),
            ("ml_pipelines.PipelineConfig", "resource_ttl_on_success", "2.17"),
            ("ml_pipelines.PipelineSpec", "nothing", None),
        ],
    )
    def test_of_a_field(self, owner: str, name: str, first: str | None) -> None:
        assert since(owner, name) == first
        if first is not None:
            for compat, version in VERSIONS:
                assert ((owner, name) in names_of(version)) == (number(first) <= number(compat))


class TestOldPackages:
    def test_agree_with_the_check(self, old: tuple[BackendVersion, Path]) -> None:
        compat, folder = old
        documents = [clean(), clean().replace(*LITERALS), clean().replace("pipelineInfo:", "pipelineInf:")]
        parsed = subprocess.run(
            [sys.executable, "-c", PARSE, str(folder)],
            input="\x00".join(documents),
            capture_output=True,
            text=True,
            check=True,
        )
        told = ["refused" if pipeline_errors(text, compat) else "taken" for text in documents]
        assert parsed.stdout.split() == told
        assert told[0] == "taken"
        assert told[1] == ("taken" if compat == "2.16" else "refused")
        assert told[2] == "refused"
