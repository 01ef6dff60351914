"""`millrace doctor`: what this machine lacks to run pipelines, and the line that mends each."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from millrace.errors import UserError, did_you_mean
from millrace.services.finding import Finding

__all__ = ["Finding", "examine", "examine_local"]

_MODULES = {
    "data": ("google_crc32c", "google.protobuf", "numpy", "obstore", "PIL", "polars", "pyarrow", "sklearn"),
    "train": ("keras", "matplotlib", "optuna", "tensorflow"),
    "serve": ("ai_edge_litert", "httpx", "prometheus_client", "starlette", "uvicorn"),
}
_WORDS = {True: "ok     ", False: "MISSING", None: "-      "}


def examine(words: Sequence[str]) -> int:
    """Print what was looked at for a target; 0 when all is well, 1 when something is missing.

    Raises:
        UserError: On an unknown target.
    """
    targets = [word.partition("=")[2] for word in words if word.startswith("target=")]
    others = [word for word in words if not word.startswith("target=")]
    target = (targets or ["local"])[0]
    own = any(word.partition("=")[0] in ("--config-dir", "-cd") for word in words)  # a target of the user's own
    if target in ("kubeflow", "sagemaker") or (own and target != "local"):
        from millrace.config import compose_and_call

        return compose_and_call("doctor", words, _examine_target)
    if others or len(targets) > 1:
        raise UserError("usage: millrace doctor target=local, or target=kubeflow|sagemaker with overrides")
    if target != "local":
        raise UserError(f"unknown target {target!r}: {did_you_mean(target, ['local', 'kubeflow', 'sagemaker'])}")
    return _show(examine_local())


def _examine_target(composed: Mapping[str, Any]) -> int:
    from millrace.settings import read_settings

    settings = read_settings(composed)
    if settings.target is not None and settings.target.name == "sagemaker":
        from millrace.services.sagemaker.doctor import examine_sagemaker

        return _show(examine_sagemaker(settings.compose(), settings.sagemaker()))
    from millrace.services.kubeflow.doctor import examine_kubeflow

    return _show(examine_kubeflow(settings.compose(), settings.kubeflow()))


def _show(findings: Iterable[Finding]) -> int:
    """Print each finding as it comes; 1 when something is missing."""
    console = Console(markup=False, highlight=False, soft_wrap=True)
    code = 0
    for finding in findings:
        console.print(f"{_WORDS[finding.good]}  {finding.what}")
        if not finding.good and finding.mend:
            console.print(f"         {'mend it' if finding.good is False else 'to have it'}: {finding.mend}")
        code = 1 if finding.good is False else code
    return code


def examine_local(root: Path = Path(".millrace")) -> Iterator[Finding]:
    """What running pipelines on this machine needs."""
    yield Finding(
        sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} (3.11 or later)", "install Python 3.11"
    )
    for extra, modules in _MODULES.items():
        missing = [name for name in modules if not _importable(name)]
        what = f"packages of the {extra!r} containers" + (f": no {', '.join(missing)}" if missing else "")
        yield Finding(not missing, what, f"pip install -e '.[{extra}]'")
    folder = root if root.exists() else root.absolute().parent
    yield Finding(os.access(folder, os.W_OK), f"{folder.absolute()} can be written", f"chmod u+w {folder.absolute()}")
    free = shutil.disk_usage(folder).free / 2**30
    yield Finding(
        free >= 2, f"{free:.1f} GiB of disk free (2 or more)", f"rm -r {root}/tasks  # the cache of earlier runs"
    )
    memory = psutil.virtual_memory().available / 2**30
    yield Finding(
        memory >= 3, f"{memory:.1f} GiB of memory free (3 or more)", "close other programs, or set runner.memory_gib"
    )
    yield Finding(True, f"{os.cpu_count()} cores")
    if find_spec("tensorflow") is not None:
        yield Finding(True, f"TensorFlow {version('tensorflow')}, declared: {_declared('tensorflow')}")
    yield _horovod()


def _horovod() -> Finding:
    """Ranks of several processes need it, nothing else does."""
    try:
        return Finding(True, f"Horovod {version('horovod')}")
    except PackageNotFoundError:
        return Finding(None, "Horovod is not installed: it lets several processes of a host train", "make horovod")


def _importable(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _declared(package: str) -> str:
    lines = [line.partition(";")[0].strip() for line in requires("millrace") or [] if line.startswith(package)]
    return lines[0] if lines else "any"
