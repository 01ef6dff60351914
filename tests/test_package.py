"""What people install: the wheel, built from the source distribution, works away from this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
LINKED = ("components", "pipelines", "conf")

pytestmark = pytest.mark.slow


class Package(NamedTuple):
    source: Path
    """A copy of this folder without what was built or cached in it."""
    sdist: list[str]
    """Names of its files, below its one folder."""
    wheel: list[str]
    """Names of its files."""
    installed: Path
    """The wheel's files, as pip puts them into site-packages."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    folder = tmp_path_factory.mktemp("package")
    source, dist, installed = folder / "source", folder / "dist", folder / "installed"
    built = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "site", "htmlcov")
    shutil.copytree(ROOT, source, symlinks=True, ignore=built)
    # no option --wheel: the wheel is then built from the source distribution, which must hold all it needs
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        sdist = [name.partition("/")[2] for name in archive.getnames()]
    wheel = next(dist.glob("*.whl"))
    shutil.unpack_archive(wheel, installed, "zip")
    return Package(source, sdist, zipfile.ZipFile(wheel).namelist(), installed)


def run(package: Package, *arguments: str, folder: Path) -> str:
    """Run Python on the installed package, in a folder from which nothing of this one can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(package.installed)}
    command = [sys.executable, "-P", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_wheel_holds_each_file_of_the_package_once_and_nothing_else(package: Package) -> None:
    links = {package.source / "millrace" / name for name in LINKED}
    own = {path.relative_to(package.source) for path in (package.source / "millrace").rglob("*") if path not in links}
    linked = {
        Path("millrace", path.relative_to(package.source))
        for name in LINKED
        for path in (package.source / name).rglob("*")
    }
    wanted = sorted(path.as_posix() for path in own | linked if (package.source / path).is_file())
    assert sorted(name for name in package.wheel if ".dist-info/" not in name) == wanted
    assert {"millrace/py.typed", "millrace/conf/config.yaml", "millrace/components/train/README.md"} <= {*wanted}


def test_the_source_distribution_has_the_licence_and_no_tests(package: Package) -> None:
    assert {"LICENSE", "README.md", "pyproject.toml"} <= {*package.sdist}
    assert [name for name in package.sdist if name.startswith("tests")] == []


def test_the_installed_package_finds_its_components_and_configuration(package: Package, tmp_path: Path) -> None:
    origin = run(package, "-c", "import millrace; print(millrace.__file__)", folder=tmp_path)
    assert Path(origin.strip()).is_relative_to(package.installed)
    names = {path.parent.name for path in (package.source / "components").glob("*/spec.py")}
    listed = {
        line.partition(" ")[0] for line in run(package, "-m", "millrace", "components", folder=tmp_path).split("\n")
    }
    assert names <= listed
    job = run(package, "-m", "millrace", "run", "pipeline=digits", "model=mlp", "--cfg", "job", folder=tmp_path)
    assert "kind: mlp" in job
