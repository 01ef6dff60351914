"""Words that Hydra can't take, each as one line: what it is, and the nearest names. Hydra's own messages are long."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from millrace.errors import ConfigError, did_you_mean
from millrace.registry import pipelines

__all__ = ["explain_hydra", "refuse_mistyped", "unreadable"]

_CFG = ("job", "hydra", "all")
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
_VALUED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("--cfg", "-c"), _CFG),
    **dict.fromkeys(("--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"), ()),
    "--experimental-rerun": (),
}
"""Flags of Hydra's that need a value; none named: any."""
_PLAIN = ("--resolve", "--run", "-r", "--multirun", "-m", "--info", "-i", "--hydra-help", "--version")
_KEY = re.compile(r"[\w$.:/@-]+")
_EXAMPLE = "overrides are KEY=VALUE, train.epochs=3 for one"


def refuse_mistyped(words: Sequence[str]) -> None:
    """Refuse words that are neither overrides nor flags of Hydra's.

    Raises:
        ConfigError: Naming the word and what it may have been.
    """
    for before, word in pairwise(["", *words]):
        name, given, value = word.partition("=")
        if before in _VALUED or (before in ("--info", "-i") and word in _INFO):
            _refuse_value(before, word)
        elif word.startswith("-"):
            if name not in _VALUED and name not in _PLAIN:
                known = (flag for flag in (*_VALUED, *_PLAIN, "--debug", "--help") if flag.startswith("--"))
                raise ConfigError(f"{word}: unknown flag: {did_you_mean(name, known)}; {_EXAMPLE}")
            if given:
                _refuse_value(name, value)
            elif name in _VALUED and word is words[-1]:
                raise ConfigError(f"{word}: it needs a value{_one_of(_VALUED[word])}")
        elif not given and not word.startswith("~"):
            meant = f"did you mean pipeline={word}?" if word in pipelines() else _EXAMPLE
            raise ConfigError(f"{word!r} is no override: {meant}")
        elif not _KEY.fullmatch(name.lstrip("+~")):
            raise ConfigError(f"{word!r} is no override: a key has no blanks, quotes or brackets; {_EXAMPLE}")
    if "--resolve" in words and not any(word.partition("=")[0] in ("--cfg", "-c") for word in words):
        raise ConfigError("--resolve: it goes with --cfg job")


def _refuse_value(flag: str, value: str) -> None:
    allowed = _INFO if flag in ("--info", "-i") else _VALUED.get(flag, ())
    if allowed and value not in allowed:
        raise ConfigError(f"{flag} {value}: {did_you_mean(value, allowed)}")
    if flag in ("--config-dir", "-cd") and not Path(value).is_dir():
        raise ConfigError(f"{flag} {value}: there is no folder {Path(value).absolute()}")


def _one_of(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


def unreadable(override: str) -> ConfigError:
    """An override whose value begins like a list, a mapping or a quoted text and is none."""
    return ConfigError(
        f"{override} can't be read: lists are [a, b], mappings {{a: 1}} with keys without quotes; text that begins "
        "with a bracket or a quote needs quotes of its own: 'key=\"[text\"'"
    )


def explain_hydra(
    error: Exception, words: Sequence[str] = (), groups: Iterable[str] = (), names: Sequence[str] = ()
) -> str:
    """What Hydra or OmegaConf found, as one line.

    Args:
        error: What one of them raised.
        words: What was typed.
        groups: Groups of options that there are.
        names: Main configurations that there are, for `--config-name`.
    """
    text = str(error).strip().replace("'++", "'")
    if (key := getattr(error, "full_key", None)) is not None and key != "":
        missing = text.startswith("Missing mandatory value")
        return f"{key}: {'a value is required' if missing else text.splitlines()[0]}"
    if file := getattr(error, "missing_cfg_file", None):
        return _missing(str(file), getattr(error, "options", None), text, words, names)
    if override := getattr(error, "override", None):
        return f"{str(override).lstrip('+~').partition('=')[0]}: a key is names with dots between them; {_EXAMPLE}"
    for pattern, told in _TOLD:
        if found := re.search(pattern, text):
            return told.format(*found.groups())
    if found := re.search(r"Could not override '([^']+)'|config group '([^']+)' does not exist", text):
        name = found[1] or found[2]
        if name.startswith("hydra."):
            return f"{name}: Hydra has no such key; its own are shown by --cfg hydra"
        return f"{name}: there is no such group of options: {did_you_mean(name, groups)}"
    short = re.split(r"\nConfig search path|\nSee https://|\nTo append to|\nDocs: ", text)[0]
    return " ".join(short.split())


def _missing(file: str, options: Sequence[str] | None, text: str, words: Sequence[str], names: Sequence[str]) -> str:
    group, _, name = file.rpartition("/")
    if "primary config" in text:
        return f"--config-name {file}: there is no {file}.yaml: {did_you_mean(file, names)}"
    asked = re.match(r"In '([^']+)'", text)
    typed = any(word.lstrip("+") == f"{group}={name}" for word in words)
    where = f", which {asked[1]}.yaml asks for" if asked and not typed else ""
    return f"{group}={name}{where}: there is none of that name: {did_you_mean(name, options or ())}"


_TOLD = (
    (
        r"Ambiguous value for argument '([^=]+)=(.*)'",
        "{0}={1}: several values: a run for each of them needs --multirun; one list is {0}=[{1}], one text "
        "\"{0}='{1}'\"",
    ),
    (r"Sweep parameters '(.+)' requires --multirun", "{0}: several values: a run for each of them needs --multirun"),
    (r"An item is already at '([^']+)'", "+{0}: the key is there already: leave out the +"),
    (r"Could not delete from config. '([^']+)' does not exist", "~{0}: there is no such key to take away"),
    (r"Could not delete '([^']+)'. No match in the defaults list", "~{0}: there is no such choice to take away"),
    (r"Config group override must be a string or a list", "a group of options takes a name: pipeline=digits for one"),
    (r"force-add of config groups is not supported: '\+*([^']+)'", "{0}: groups of options take no +: leave it out"),
)
"""Beginnings of what Hydra says, and the same in one line."""
