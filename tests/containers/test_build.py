"""`millrace build`: what it says when it can't, and what it pushes to a real registry."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from millrace import __version__
from millrace.compilers.images import reference
from millrace.runners.revision import origin, revision
from millrace.targets.images import Images
from tests.conftest import needed

ROOT = Path(__file__).parents[2]
MANIFEST = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}


def build(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "millrace", "build", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Millrace as an installation has it: without containers/ beside it."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "millrace", folder / "millrace", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def other_version(tmp_path_factory: pytest.TempPathFactory, installed: Path) -> Path:
    """A folder with Millrace 0.0.0, whose images take nobody's place, and a checkout of it with a tiny image."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(installed / "millrace", folder / "installed" / "millrace")
    (folder / "installed" / "millrace" / "__init__.py").write_text('__version__ = "0.0.0"\n')
    checkout(folder / "checkout", "FROM scratch AS data\nCOPY pyproject.toml /\n", "0.0.0")
    return folder


def checkout(folder: Path, dockerfile: str, version: str = __version__) -> Path:
    """The least that is taken for a checkout of Millrace."""
    (folder / "containers").mkdir(parents=True)
    (folder / "containers" / "Dockerfile").write_text(dockerfile)
    (folder / "millrace").mkdir()
    (folder / "millrace" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(f'[project]\nname = "millrace"\nversion = "{version}"\n')
    return folder


class TestMistakes:
    """Each ends with exit code 2 and the way out, before anything is built."""

    @pytest.mark.parametrize(
        ("word", "message"),
        [
            ("images=[trian]", "images: unknown image 'trian': did you mean 'train'?"),
            ("push=Registry.example.org/Team/", "with the name in lowercase"),
            ("push=https://registry.example.org/team/", "not an image reference"),
        ],
    )
    def test_words(self, word: str, message: str, tmp_path: Path) -> None:
        answer = build(word, cwd=tmp_path)
        assert answer.returncode == 2
        assert message in answer.stderr

    def test_docker_is_not_installed(self, tmp_path: Path) -> None:
        answer = build(cwd=tmp_path, PATH=str(tmp_path))
        assert answer.returncode == 2
        assert "sudo apt-get install docker.io" in answer.stderr

    @pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
    def test_docker_does_not_run(self, tmp_path: Path) -> None:
        answer = build(cwd=tmp_path, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
        assert answer.returncode == 2
        assert re.search(r"no Docker engine answers: .*none\.sock.*\nstart it: sudo systemctl", answer.stderr)

    def test_there_is_no_checkout(self, installed: Path, tmp_path: Path) -> None:
        answer = build(cwd=tmp_path, PYTHONPATH=str(installed))
        assert answer.returncode == 2
        assert "there is no containers/Dockerfile" in answer.stderr

    def test_the_checkout_is_of_another_version(self, installed: Path, tmp_path: Path) -> None:
        folder = checkout(tmp_path, "", version="99.0")
        answer = build(cwd=folder, PYTHONPATH=str(installed))
        assert answer.returncode == 2
        assert f"is a checkout of Millrace 99.0, but this is Millrace {__version__}" in answer.stderr


@pytest.mark.docker
def test_a_failed_build_ends_with_its_last_lines(docker_engine: Any, installed: Path, tmp_path: Path) -> None:
    program = "import sys; print('reason', 6 * 7); sys.exit(3)"
    dockerfile = f'FROM python:3.11-slim-bookworm AS data\nRUN ["python", "-c", "{program}"]\n'
    answer = build("images=[data]", cwd=checkout(tmp_path, dockerfile), PYTHONPATH=str(installed))
    assert answer.returncode == 1
    streamed, said, end = answer.stderr.partition("error: ")
    assert "reason 42" in streamed
    assert said
    assert re.search(r"`docker build .*--target data.*` failed; its last lines were:(?s:.*)reason 42", end)
    assert "Traceback" not in answer.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a registry on this machine."""
    program = shutil.which("docker-registry")
    if program is None:
        needed("needs docker-registry: apt-get install docker-registry")
    folder, port = tmp_path_factory.mktemp("registry"), free_port()
    config = {
        "version": 0.1,
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (folder / "config.json").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen([program, "serve", str(folder / "config.json")], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 20
        while not _answers(f"http://127.0.0.1:{port}/v2/"):
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, "the registry does not answer"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.mark.docker
class TestPush:
    def test_digests_are_where_compile_reads_them(
        self, docker_engine: Any, other_version: Path, registry: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = other_version / "checkout"
        mine = f"registry.example.org/mine@sha256:{'0' * 64}"
        (folder / "build").mkdir()
        (folder / "build" / "images.json").write_text(json.dumps({"mine": mine}))
        answer = build("images=[data]", f"push={registry}/team", cwd=folder, PYTHONPATH=f"{other_version}/installed")
        assert answer.returncode == 0, answer.stderr

        written = json.loads((folder / "build" / "images.json").read_text())
        assert set(written) == {"data", "mine"}
        assert written["mine"] == mine
        assert written["data"].startswith(f"{registry}/team/data@sha256:")
        assert re.search(rf"^millrace/data:0\.0\.0 +\d+ MB +{written['data']}$", answer.stdout, re.MULTILINE)
        monkeypatch.chdir(folder)
        assert reference("data", Images()) == written["data"]

        address = f"http://{registry}/v2/team/data/manifests/0.0.0"
        manifest = httpx.get(address, headers=MANIFEST, trust_env=False)
        assert manifest.headers["Docker-Content-Digest"] == written["data"].partition("@")[2]
        built = docker_engine.images.get("millrace/data:0.0.0").id
        docker_engine.images.remove(f"{registry}/team/data:0.0.0")
        assert docker_engine.images.pull(written["data"]).id == built

        note = build("images=[data]", cwd=folder, PYTHONPATH=f"{other_version}/installed")
        assert note.returncode == 0
        assert "note: build/images.json names images that were pushed before" in note.stderr
        docker_engine.images.remove(built, force=True)

    @pytest.mark.parametrize(("target", "user"), [("sagemaker", "0"), ("kubeflow", "")])
    def test_sagemaker_gets_images_that_run_as_root(
        self, docker_engine: Any, other_version: Path, registry: str, tmp_path: Path, target: str, user: str
    ) -> None:
        prefix = f"{registry}/{target}"
        words = ("images=[data]", f"push={prefix}", f"target={target}", f"target.images.digests={tmp_path}/images.json")
        answer = build(*words, cwd=other_version / "checkout", PYTHONPATH=f"{other_version}/installed")
        assert answer.returncode == 0, answer.stderr
        built, pushed = (docker_engine.images.get(f"{name}/data:0.0.0") for name in ("millrace", prefix))
        try:
            assert pushed.attrs["Config"]["User"] == user
            assert built.attrs["Config"]["User"] == ""
            assert pushed.attrs["RootFS"] == built.attrs["RootFS"]
            assert json.loads((tmp_path / "images.json").read_text())["data"] in pushed.attrs["RepoDigests"]
        finally:
            for image in dict.fromkeys((pushed.id, built.id)):  # the child first: a parent can't be removed before it
                docker_engine.images.remove(image, force=True)

    def test_a_registry_that_is_not_there(self, docker_engine: Any, other_version: Path, tmp_path: Path) -> None:
        prefix = f"127.0.0.1:{free_port()}/team/"
        words = ("images=[data]", f"push={prefix}", f"target.images.digests={tmp_path}/images.json", "target=kubeflow")
        answer = build(*words, cwd=other_version / "checkout", PYTHONPATH=f"{other_version}/installed")
        docker_engine.images.remove(docker_engine.images.get("millrace/data:0.0.0").id, force=True)
        assert answer.returncode == 1
        assert f"`docker push {prefix}data:0.0.0` failed" in answer.stderr
        assert "if you are not logged in: docker login 127.0.0.1:" in answer.stderr
        assert not (tmp_path / "images.json").exists()


class TestSource:
    """What the labels say about the source."""

    @pytest.mark.parametrize(
        ("remote", "address"),
        [
            ("https://user:secret@git.example.org/team/millrace.git", "https://git.example.org/team/millrace"),
            ("git@git.example.org:team/millrace.git", "https://git.example.org/team/millrace"),
            ("ssh://git@git.example.org/team/millrace", "https://git.example.org/team/millrace"),
            ("/srv/git/millrace", ""),
            ("file:///srv/git/millrace", ""),
        ],
    )
    def test_address_of_the_clone(self, remote: str, address: str, tmp_path: Path) -> None:
        git(tmp_path, "init", "--quiet")
        git(tmp_path, "remote", "add", "origin", remote)
        assert origin(tmp_path) == address

    def test_revision_of_the_clone(self, tmp_path: Path) -> None:
        assert revision(tmp_path) == ""
        git(tmp_path, "init", "--quiet")
        (tmp_path / "file").touch()
        git(tmp_path, "add", "file")
        git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "--quiet", "--message=one")
        assert re.fullmatch("[0-9a-f]{12}", revision(tmp_path))
        (tmp_path / "file").write_text("changed")
        assert revision(tmp_path).endswith("+changes")


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True)
