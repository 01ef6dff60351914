"""From YAML and overrides to validated settings: YAML -> Hydra -> pydantic, and no further.

The defaults are those of the pydantic models. They are handed to Hydra as config nodes, so that
`--cfg job`, overrides and completion see every key; YAML files hold only what differs.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from yaml import YAMLError

from millrace.errors import ConfigError, MillraceError, did_you_mean, report
from millrace.mistyped import explain_hydra, refuse_mistyped, unreadable
from millrace.registry import load_pipeline, pipelines
from millrace.runners.local import LocalRunner
from millrace.runtime.task import IMPORT_PATH, append_import_path
from millrace.settings import Settings, option_groups, refuse_unknown
from millrace.specs import PipelineConfig
from millrace.targets.kubeflow import Kubeflow
from millrace.targets.sagemaker import SageMaker

__all__ = [
    "add_import_paths",
    "complete_overrides",
    "compose_and_call",
    "pipeline_values",
    "target_words",
    "user_components",
    "user_pipelines",
]

Job = Callable[[Mapping[str, Any]], int]
_any: TypeAdapter[Any] = TypeAdapter(Any)
_COMPILING = ("runtime", "compat")
_KEYS: Mapping[str, tuple[str, ...]] = {
    "build": ("push", "images"),
    "compile": (*_COMPILING, "component", "output"),
    "rehearse": (*_COMPILING, "document", "parameters", "rehearse"),
    "upload": (*_COMPILING, "document"),
    "submit": (*_COMPILING, "document", "submit", "wait"),
    "schedule": (*_COMPILING, "document", "submit", "schedule"),
    "status": ("run", "wait", "logs"),
    "rbac": _COMPILING,
    "iam": (*_COMPILING, "document"),
    "cost": (*_COMPILING, "document", "cost"),
    "endpoint": ("endpoint",),
    "doctor": _COMPILING,
}
"""Keys of `Settings` that a command reads beside those of every command: `--cfg job` shows them."""
_EVERYWHERE = ("pipeline", "runner", "target")
_COMPONENT = "component="
"""Chooses a component: no group for Hydra, though folders of the user's own are called `component`."""
_MODES = ("--cfg", "-c", "--info", "-i", "--multirun", "-m", "--run", "-r")


def compose_and_call(command: str, arguments: Sequence[str], job: Job) -> int:
    """Let Hydra compose the configuration of `millrace COMMAND ARGUMENTS` and call `job` with it.

    With `--multirun` the job is called once for each combination. Hydra's own flags work as in any
    Hydra application.

    Returns:
        The largest exit code of the jobs; 2 when the configuration can't be composed.

    Raises:
        ConfigError: When Hydra can't compose the configuration.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    codes: list[int] = []
    begun: list[DictConfig] = []

    def call(config: DictConfig) -> None:
        begun.append(config)
        try:
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            composed = {str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {}
            _refuse_unread(command, arguments)
            _refuse_unused(command, composed, arguments)
            _refuse_unknown(command, composed)
            codes.append(job(composed))
        except OmegaConfBaseException as error:
            codes.append(report(ConfigError(explain_hydra(error))))
        except MillraceError as error:
            codes.append(report(error))

    refuse_mistyped(arguments)
    modes = [word for word in arguments if word.partition("=")[0] in _MODES]
    if len(modes) > 1:
        raise ConfigError(f"{' and '.join(modes)} exclude each other: give one of them")
    broken = _prepare_hydra(arguments, command)
    sys.argv = [f"millrace {command}", *_forced(arguments)]
    try:
        hydra.main(version_base="1.3", config_path="pkg://millrace.conf", config_name="config")(call)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if begun and not isinstance(error, (HydraException, OmegaConfBaseException)):
            raise
        missing = str(getattr(error, "missing_cfg_file", None)).removeprefix("defaults/")
        folders = _config_dirs(arguments)
        mains = ["config", *(file.stem for folder in folders for file in folder.glob("*.yaml"))]
        told = explain_hydra(error, arguments, option_groups(*folders), mains)
        raise broken.get(missing) or ConfigError(told) from error
    except YAMLError as error:  # it names the file and the line
        raise ConfigError(f"no YAML: {' '.join(str(error).split())}") from error
    return max(codes, default=0)


_INSTEAD = {
    "document": "it is compiled already; what was left open in it is given as parameters.NAME=VALUE to `rehearse` and "
    "as submit.parameters.NAME=VALUE to `submit`",
    "component": "it keeps its defaults; they are overridden in the pipeline that uses it",
}


def _overridden(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The whole key of each override as it was typed, and its first part."""
    for word in arguments:
        key = word.lstrip("+~").partition("=")[0]
        if not word.startswith("-") and ("=" in word or word.startswith("~")):
            yield key, re.split(r"[.@/]", key)[0]


def _refuse_unread(command: str, arguments: Sequence[str]) -> None:
    """Keys of other commands: in a file they wait for theirs, but whoever types one expects something of it."""
    others = {*Settings.model_fields} - {"config", *_EVERYWHERE, *_KEYS.get(command, ())}
    for key, first in _overridden(arguments):
        if first in others and (command, key) != ("upload", "submit.cache"):
            takers = ", ".join(sorted(name for name, keys in _KEYS.items() if first in keys))
            raise ConfigError(f"{key}: `millrace {command}` does not take {first}; commands that do: {takers}")


def _refuse_unused(command: str, composed: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """What would be overridden in a pipeline means nothing to a compiled document or a single component."""
    taken = [*_EVERYWHERE, *_KEYS.get(command, ())]
    for option, instead in _INSTEAD.items():
        if composed.get(option) is None:
            continue
        for key, first in _overridden(arguments):
            if command == "rehearse" and key in ("pipeline", "pipeline.function"):
                raise ConfigError(f"{key} has no effect with {option}={composed[option]}: give one of them")
            if first in {*Settings.model_fields, "hydra"}:
                continue
            if first not in _pipeline_config(composed).model_fields and difflib.get_close_matches(
                first, taken, n=1, cutoff=0.75
            ):
                raise ConfigError(f"{first}: unknown key: {did_you_mean(first, taken)}")
            raise ConfigError(f"{key} has no effect with {option}={composed[option]}: {instead}")


def _refuse_unknown(command: str, composed: Mapping[str, Any]) -> None:
    """Keys of neither the framework nor the pipeline, for commands that compose none, too."""
    config = _pipeline_config(composed)
    unknown = composed.keys() - Settings.model_fields.keys()
    if config.model_fields:
        refuse_unknown(unknown, config, _KEYS.get(command, ()))


def _pipeline_config(composed: Mapping[str, Any]) -> type[PipelineConfig]:
    """The pipeline's; an empty one where there is no such pipeline, which is for those to tell who need it."""
    try:
        return load_pipeline(str(composed["pipeline"]["function"])).config
    except (ConfigError, KeyError, TypeError):
        return PipelineConfig


def target_words(arguments: Sequence[str]) -> str:
    """The words that say which target, as they were typed, for a command that follows."""
    chosen = [word for word in arguments if word.startswith(("target=", "target.", "--config-dir="))]
    for flag, value in pairwise(arguments):
        if flag in ("--config-dir", "-cd"):
            chosen = [flag, value, *chosen]
    return shlex.join(chosen)


def pipeline_values(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a pipeline is configured with where nothing is overridden; empty when Hydra finds no file of that name.

    Args:
        name: The file's, below `pipeline/`.
        arguments: With `--config-dir`, where there is one.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig, OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found: dict[str, Any] = {}

    def take(config: DictConfig) -> None:
        plain = OmegaConf.to_container(config, resolve=True)
        found.update({str(key): value for key, value in plain.items()} if isinstance(plain, dict) else {})

    folders = [word for folder in _config_dirs(arguments) for word in ("--config-dir", str(folder))]
    _prepare_hydra(folders, "run")
    sys.argv = ["millrace describe", f"pipeline={name}", *folders]
    with contextlib.suppress(HydraException, OmegaConfBaseException, YAMLError):
        hydra.main(version_base="1.3", config_path="pkg://millrace.conf", config_name="config")(take)()
    return found


def complete_overrides(request: str, words: Sequence[str], command: str = "run") -> str:
    """What Hydra proposes for the last of the words after `millrace COMMAND`, or its script for a shell.

    Args:
        request: `install=SHELL`, `uninstall=SHELL` or `query=SHELL`.
        words: What was typed so far.
        command: The command.
    """
    import hydra

    folders = [word for folder in _config_dirs(words[:-1]) if folder.is_dir() for word in ("--config-dir", str(folder))]
    _prepare_hydra(folders, command)
    os.environ["COMP_LINE"] = " ".join(["millrace", *(word for word in words[:-1] if "=" in word), *words[-1:]])
    sys.argv = ["millrace", *folders, "--shell-completion", request]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        hydra.main(version_base="1.3", config_path="pkg://millrace.conf", config_name="config")(lambda config: None)()
    return printed.getvalue()


def add_import_paths(arguments: Sequence[str]) -> list[Path]:
    """Make modules in the current folder, in `--config-dir` and beside it importable, here and in workers.

    They come last, so that they shadow nothing of the library's: a `queue.py` among pictures does no harm.
    """
    folders = [Path.cwd(), *(place for folder in _config_dirs(arguments) for place in (folder, folder.parent))]
    os.environ[IMPORT_PATH] = os.pathsep.join(dict.fromkeys(map(str, folders)))
    append_import_path()
    return folders


def user_components(arguments: Sequence[str]) -> dict[str, str]:
    """Components that files `component/NAME.yaml` in `--config-dir` add: `entry: module:attribute`.

    Raises:
        ConfigError: When a file has no such entry.
    """
    found = {}
    for folder in _config_dirs(arguments):
        from omegaconf import OmegaConf

        for file in sorted((folder / "component").glob("*.yaml")):
            content = OmegaConf.to_container(OmegaConf.load(file))
            entry = content.get("entry") if isinstance(content, dict) else None
            if not isinstance(entry, str) or ":" not in entry:
                raise ConfigError(f"{file}: it needs one line such as `entry: my_package.blur.spec:blur`")
            found[file.stem] = entry
    return found


def _prepare_hydra(arguments: Sequence[str], command: str = "") -> dict[str, ConfigError]:
    """Give Hydra the defaults of a command and of every pipeline.

    Returns:
        Pipelines that can't be imported, with the reason.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors here instead of printing them
    add_import_paths(arguments)
    _refuse_shadowed(arguments)
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(group="runner", name="local", node=_defaults(LocalRunner))
    node = {key: _defaults(Settings)[key] for key in _KEYS.get(command, ())}
    for word in arguments:
        if word.startswith(_COMPONENT):
            node["component"] = word.removeprefix(_COMPONENT)
    store.store(group="settings", name="command", node=node)
    store.store(group="defaults", name="target_kubeflow", node=_defaults(Kubeflow))
    store.store(group="defaults", name="target_sagemaker", node=_defaults(SageMaker))
    broken = {}
    for name, entry in (dict.fromkeys(pipelines()) | user_pipelines(arguments)).items():
        try:
            store.store(group="defaults", name=name, node=_defaults(load_pipeline(entry or name).config))
        except ConfigError as error:
            broken[name] = error
    return broken


def user_pipelines(arguments: Sequence[str]) -> dict[str, str]:
    """The functions that files `pipeline/NAME.yaml` in `--config-dir` name as `module:attribute`."""
    found = {}
    for folder in _config_dirs(arguments):
        from omegaconf import OmegaConf

        for file in sorted((folder / "pipeline").glob("*.yaml")):
            with contextlib.suppress(Exception):  # Hydra tells what is wrong with the file that is chosen
                function = str(OmegaConf.load(file).pipeline.function)
                if ":" in function:
                    found[file.stem] = function
    return found


def _refuse_shadowed(arguments: Sequence[str]) -> None:
    """Hydra would silently take the library's file instead of the user's of the same name."""
    library = Path(str(files("millrace.conf")))
    for folder in _config_dirs(arguments):
        for file in sorted(folder.glob("**/*.yaml")):
            name = file.relative_to(folder)
            if (library / name).is_file() and not (library / name).samefile(file):
                raise ConfigError(f"{file} has the name of one of the library's own files: rename it")


def _defaults(model: type[BaseModel]) -> dict[str, Any]:
    """A model's defaults as plain data; fields without one are left to YAML and overrides."""
    blank = model.model_construct()
    return {name: _plain(getattr(blank, name)) for name, field in model.model_fields.items() if not field.is_required()}


def _plain(value: Any) -> Any:
    """A default as plain data. Of a variant of a union only its kind and what differs from the
    variant's own defaults: another kind chosen over it must not inherit its keys."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        if "kind" not in fields or len(get_args(fields["kind"].annotation)) > 1:  # one class for all its kinds
            return {name: _plain(getattr(value, name)) for name in fields}
        return value.model_dump(include={"kind"}) | {
            name: _plain(getattr(value, name)) for name in value.model_fields_set
        }
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _any.dump_python(value, mode="json")


def _config_dirs(arguments: Sequence[str]) -> list[Path]:
    found = []
    for position, item in enumerate(arguments):
        flag, _, value = item.partition("=")
        if flag in ("--config-dir", "-cd"):
            found.append(Path(value or next(iter(arguments[position + 1 :]), ".")).absolute())
    return found


def _forced(arguments: Sequence[str]) -> list[str]:
    """Overrides of values as `++key=value`: unknown keys then reach pydantic, which knows what is allowed."""
    groups = {"hydra", *option_groups(*_config_dirs(arguments))}
    overrides, flags = [], []  # overrides go first: argparse does not take them on both sides of a flag
    for item in arguments:
        if item.startswith(_COMPONENT):
            continue
        key = item.partition("=")[0]
        group = key.partition("@")[0].partition("/")[0]
        if item.startswith("-") or not ("=" in item or item.startswith("~")):
            flags.append(item)
        elif item.startswith(("+", "~")) or "/" in key or "@" in key or key.startswith("hydra.") or group in groups:
            overrides.append(item)
        else:
            overrides.append(_readable(f"++{item}"))
    return [*overrides, *flags]


def _readable(override: str) -> str:
    """The override, its value in quotes if Hydra's grammar has no other way to read it.

    Paths hold accents, brackets, ampersands; nobody expects to quote them twice.

    Raises:
        ConfigError: When the value begins like a list, a mapping or a quoted text and is none.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, _, value = override.partition("=")
    try:
        OverridesParser.create().parse_override(override)
    except HydraException as error:
        if value.startswith(("[", "{", "(", "'", '"')):
            raise unreadable(override.removeprefix("++")) from error
        doubled = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", r"\'"), value)
        return f"{key}='{doubled}'"
    return override
