"""Build the images of the components with Docker's command line, and push them to a registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import millrace
from millrace.compilers.images import read_digests, reference
from millrace.errors import ConfigError, TaskFailedError, UnsupportedError, explain_os_error
from millrace.runtime.task import write_atomically
from millrace.targets.images import Images

__all__ = ["IMAGES", "Built", "build", "checkout", "find_docker", "push", "pushed_name", "write_digests"]

IMAGES = ("data", "train", "serve")
"""Targets of containers/Dockerfile."""

_START = (
    "start it: sudo systemctl start docker\nlet your user use it: sudo usermod -aG docker $USER, then log in again\n"
    "or name another engine in DOCKER_HOST"
)


class Built(NamedTuple):
    """An image on this machine."""

    name: str
    reference: str
    size: int
    """Bytes of all its layers, unpacked."""


def checkout() -> Path:
    """The folder with Millrace's source and containers/: the one this Millrace runs from, or else the current one.

    Raises:
        ConfigError: When neither is a checkout, or it is one of another version.
    """
    for folder in (Path(millrace.__file__).parents[1], Path.cwd()):
        if (folder / "containers" / "Dockerfile").is_file() and (folder / "millrace" / "__init__.py").is_file():
            version = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
            if version != millrace.__version__:
                raise ConfigError(
                    f"{folder} is a checkout of Millrace {version}, but this is Millrace {millrace.__version__}: "
                    f"check out that version, or install the checkout: pip install --editable {folder}"
                )
            return folder
    raise ConfigError(
        "images are built from a checkout of Millrace: there is no containers/Dockerfile here; "
        "change into a clone of the project, then run the same command again"
    )


def find_docker() -> str:
    """Path of the docker command, with an engine that answers.

    Raises:
        UnsupportedError: Telling which of them is missing and the line that mends it.
    """
    docker = shutil.which("docker")
    if docker is None:
        raise UnsupportedError(
            "images are built with Docker, and there is no `docker` on PATH: install it, "
            "on Debian and Ubuntu with: sudo apt-get install docker.io"
        )
    answer = subprocess.run(
        [docker, "version", "--format", "{{.Server.Version}}"], capture_output=True, text=True, check=False
    )
    if answer.returncode:
        reason = (answer.stderr.strip() or answer.stdout.strip() or "no reason given").splitlines()[-1]
        raise UnsupportedError(f"no Docker engine answers: {reason}\n{_START}")
    return docker


def build(docker: str, source: Path, names: Iterable[str], revision: str, origin: str) -> list[Built]:
    """Build images, tag them `millrace/NAME:VERSION` and stream Docker's output to standard error.

    Args:
        docker: Of `find_docker`.
        source: Of `checkout`.
        names: Some of `IMAGES`.
        revision: Git revision, for the images' labels.
        origin: URL of the source, for the images' labels.

    Raises:
        TaskFailedError: When a build fails, with the last lines of its output.
    """
    labels = {"VERSION": millrace.__version__, "REVISION": revision, "SOURCE": origin}
    arguments = [f"--build-arg={key}={value}" for key, value in labels.items()]
    built = []
    for name in names:
        tag = f"{Images().prefix}{name}:{millrace.__version__}"
        file = str(source / "containers" / "Dockerfile")
        _stream(
            [docker, "build", "--force-rm", "--file", file, "--target", name, "--tag", tag, *arguments, str(source)]
        )
        built.append(Built(name, tag, int(_ask(docker, "image", "inspect", "--format", "{{.Size}}", tag))))
    return built


def pushed_name(prefix: str, name: str) -> str:
    """The reference that an image is pushed as: `PREFIX/NAME:VERSION`.

    Raises:
        ConfigError: When the prefix makes none.
    """
    return reference(f"{prefix.removesuffix('/')}/{name}:{millrace.__version__}", Images())


def push(docker: str, images: Iterable[Built], prefix: str, *, root: bool = False) -> dict[str, str]:
    """Tag images `PREFIX/NAME:VERSION`, push them, and give their references by digest, by name.

    Args:
        docker: Of `find_docker`.
        images: Of `build`.
        prefix: Registry and folder.
        root: Push variants that run as root: SageMaker's folders belong to root in all its containers.

    Raises:
        ConfigError: When the prefix makes no image reference.
        TaskFailedError: When the registry does not take an image, with the last lines of Docker's output.
    """
    digests = {}
    for image in images:
        tag = pushed_name(prefix, image.name)
        if root:
            _ask(docker, "build", "--tag", tag, "-", given=f"FROM {image.reference}\nUSER 0\n")
        else:
            _ask(docker, "tag", image.reference, tag)
        _stream([docker, "push", tag], f"\nif you are not logged in: docker login {tag.partition('/')[0]}")
        known: list[str] = json.loads(_ask(docker, "image", "inspect", "--format", "{{json .RepoDigests}}", tag))
        digests[image.name] = next(found for found in known if found.startswith(f"{tag.rpartition(':')[0]}@"))
    return digests


def write_digests(path: Path, digests: Mapping[str, str]) -> None:
    """Add references by digest to the file that `millrace compile` reads; those of other images stay.

    Raises:
        ConfigError: When the file can't be written, or there is one that holds something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({**read_digests(path), **digests}, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise ConfigError(explain_os_error(error)) from error


def _stream(command: list[str], hint: str = "") -> None:
    """Run a command with its output on standard error."""
    last: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        for line in process.stdout or ():
            print(line, end="", file=sys.stderr, flush=True)
            last.append(line)
    if process.returncode:
        shown = " ".join(Path(word).name if word == command[0] else word for word in command)
        raise TaskFailedError(f"`{shown}` failed; its last lines were:\n{''.join(last).rstrip()}{hint}")


def _ask(docker: str, *arguments: str, given: str = "") -> str:
    answer = subprocess.run([docker, *arguments], input=given, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise TaskFailedError(f"`docker {' '.join(arguments)}` failed: {answer.stderr.strip()}")
    return answer.stdout.strip()
