"""Fields that a compiled document leaves open: found by tracing where each value goes.

A pipeline function is Python, so a field may fill a parameter, decide how many tasks there are, or
both. The pipeline is composed again with other values of the field. What follows each of them
exactly can stay open; anything else that changes is the shape of the pipeline, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, TypeVar, cast

from pydantic import BaseModel, JsonValue, TypeAdapter, ValidationError

from millrace.errors import CompositionError, ConfigError, UnsupportedError, did_you_mean
from millrace.specs.alternatives import FieldValue, Scalar, alternatives, choices_of, kind_of, same, schema_of
from millrace.specs.compose import Pipeline, PipelineConfig
from millrace.specs.dotted import flatten
from millrace.specs.pipeline import OpenField, PipelineSpec, RuntimeParameter
from millrace.specs.references import Condition

__all__ = ["open_fields"]

ConfigT = TypeVar("ConfigT", bound=PipelineConfig)
Path = tuple[str | int, ...]

_ACCEPTED = 5
"""Values that a field is traced with, at most."""
_MISSING = object()


def open_fields(pipeline: Pipeline[ConfigT], config: ConfigT, names: Sequence[str]) -> PipelineSpec:
    """Compose a pipeline and leave some fields of its configuration open.

    Args:
        pipeline: The pipeline.
        config: Its configuration; the values of open fields become their defaults.
        names: Dotted keys of the configuration: `train.learning_rate`.

    Returns:
        The spec with `runtime_parameters`, and `Condition.runtime` where a threshold stays open.

    Raises:
        ConfigError: When a key is unknown, given twice, or read by no task.
        UnsupportedError: When a field decides on the pipeline's shape, is changed on its way, or has
            no single value.
        CompositionError: When the pipeline can't be composed.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if list(names).count(name) > 1)
        raise ConfigError(f"runtime: {twice!r} is given twice")
    spec = pipeline.compose(config)
    dumped = _dumped(spec)
    values = config.model_dump(mode="json")
    parameters: list[RuntimeParameter] = []
    thresholds: dict[Path, str] = {}
    owners: dict[Path, str] = {}
    for name in names:
        field = _field(name, config, values)
        places = _traced(pipeline, config, field, dumped)
        for place in places:
            if owners.setdefault(place, name) != name:
                raise UnsupportedError(f"runtime: {owners[place]!r} and {name!r} fill the same place: {_told(place)}")
        thresholds |= {place: name for place in places if place[2] == "conditions"}
        parameters.append(_parameter(field, places))
    tasks = tuple(
        task.model_copy(update={"conditions": tuple(_opened(task.name, task.conditions, thresholds))})
        for task in spec.tasks
    )
    return spec.model_copy(update={"tasks": tasks, "runtime_parameters": tuple(parameters)})


def _opened(task: str, conditions: Sequence[Condition], thresholds: Mapping[Path, str]) -> Iterator[Condition]:
    for index, condition in enumerate(conditions):
        name = thresholds.get(("tasks", task, "conditions", index, "threshold"))
        yield condition.model_copy(update={"runtime": name}) if name else condition


def _field(name: str, config: PipelineConfig, values: Mapping[str, JsonValue]) -> FieldValue:
    """The field of that name, if it is one that can stay open."""
    keys = tuple(_split(name, values))
    value = _at(values, keys)
    if isinstance(value, Mapping) and value:
        below = [f"{name}.{key}" for key, item in flatten(value).items() if isinstance(item, Scalar)]
        names = f": name one of {', '.join(below)}" if below else ""
        raise UnsupportedError(f"runtime: {name!r} is a group of values and can't stay open as a whole{names}")
    if isinstance(value, list | Mapping):
        raise UnsupportedError(f"runtime: {name!r} is a list or mapping; only single values can stay open")
    if value is None:
        raise UnsupportedError(f"runtime: {name!r} is null: give it a value, which becomes the open field's default")
    schema = schema_of(config, keys)
    if [variant for variant in schema["variants"] if "const" in variant] == schema["variants"] != []:
        raise UnsupportedError(
            f"runtime: {name!r} decides which other keys there are, so it can't stay open; name one of those"
        )
    return FieldValue(name, keys, value, schema)


def _split(name: str, values: Mapping[str, JsonValue]) -> Iterator[str]:
    """A dotted name as keys; keys of mappings may hold dots themselves."""
    rest, here, done = name, values, ""
    while rest:
        fits = [key for key in here if rest == key or rest.startswith(f"{key}.")]
        if not fits:
            known = [f"{done}{key}" for key in here]
            hint = did_you_mean(done + rest, known) if known else f"{done.removesuffix('.')} has no keys below it"
            raise ConfigError(f"runtime: unknown key {name!r}: {hint}")
        key = max(fits, key=len)
        yield key
        done, rest = f"{done}{key}.", rest[len(key) + 1 :]
        below = here[key]
        here = below if isinstance(below, Mapping) else {}


def _at(values: Mapping[str, JsonValue], keys: Sequence[str]) -> JsonValue | Mapping[str, JsonValue]:
    found: JsonValue | Mapping[str, JsonValue] = values
    for key in keys:
        found = found[key] if isinstance(found, Mapping) else None
    return found


def _traced(
    pipeline: Pipeline[ConfigT], config: ConfigT, field: FieldValue, before: Mapping[Path, object]
) -> tuple[Path, ...]:
    """The places that a field fills, the same for every value that it is tried with."""
    found = _tried(pipeline, config, field, before, _replaced)
    if not found:  # other fields must change with it: then each is open for itself, and the task checks them together
        found = _tried(pipeline, config, field, before, _replaced_alone)
    if not found:
        tried = ", ".join(repr(value) for value in alternatives(field))
        raise UnsupportedError(
            f"runtime: {field.name!r} can't be traced: the pipeline takes no other value of those tried ({tried})"
        )
    if len(found) > 1:
        (first, one), (second, other) = found.items()
        differing = sorted({*first} ^ {*second}, key=str)
        raise UnsupportedError(
            f"runtime: {field.name!r} can't stay open: the pipeline uses some of its values only "
            f"({one!r} and {other!r} differ at {_told(differing[0])})"
        )
    places = next(iter(found))
    if not places:
        raise ConfigError(f"runtime: {field.name!r} changes nothing: no task and no condition of this pipeline uses it")
    return places


def _tried(
    pipeline: Pipeline[ConfigT],
    config: ConfigT,
    field: FieldValue,
    before: Mapping[Path, object],
    replace: Callable[[Any, Sequence[str], JsonValue], Any],
) -> dict[tuple[Path, ...], JsonValue]:
    """The sets of places that were found, each with a value that led there; at most two."""
    found: dict[tuple[Path, ...], JsonValue] = {}
    accepted = 0
    for new in alternatives(field):
        try:
            changed = replace(config, field.keys, new)
            if not same(_read(changed, field.keys), new):  # the model makes another value of it
                continue
            after = _dumped(pipeline.compose(changed))
        except (ValidationError, CompositionError, ConfigError):
            continue
        found.setdefault(tuple(_places(field, new, before, after)), new)
        accepted += 1
        if len(found) > 1 or accepted == _ACCEPTED:
            break
    return found


def _read(holder: Any, keys: Sequence[str]) -> object:
    """A value as JSON data, without the rest of the configuration."""
    for key in keys[:-1]:
        holder = getattr(holder, key) if isinstance(holder, BaseModel) else holder[key]
    last = keys[-1]
    if isinstance(holder, BaseModel):
        return holder.model_dump(mode="json", include={last})[last]
    return holder[last]


def _replaced(holder: Any, keys: Sequence[str], value: JsonValue) -> Any:
    """A copy with one value changed, every model on the way to it validated again."""
    head, rest = keys[0], keys[1:]
    if not isinstance(holder, BaseModel):
        return {**holder, head: _replaced(holder[head], rest, value) if rest else value}
    inner = _replaced(getattr(holder, head), rest, value) if rest else value
    fields = type(holder).model_fields
    given = {name: getattr(holder, name) for name in holder.model_fields_set if name in fields}
    return type(holder).model_validate({**given, head: inner}, by_name=True)


def _replaced_alone(holder: Any, keys: Sequence[str], value: JsonValue) -> Any:
    """A copy with one value changed that is checked alone, without the fields around it."""
    head, rest = keys[0], keys[1:]
    if not isinstance(holder, BaseModel):
        return {**holder, head: _replaced_alone(holder[head], rest, value) if rest else value}
    info = type(holder).model_fields[head]
    inner = (
        _replaced_alone(getattr(holder, head), rest, value)
        if rest
        else TypeAdapter[Any](cast("Any", Annotated[info.annotation, info])).validate_python(value)
    )
    return holder.model_copy(update={head: inner})


def _places(
    field: FieldValue, new: JsonValue, before: Mapping[Path, object], after: Mapping[Path, object]
) -> Iterator[Path]:
    """Where the field's value went; everything else that changed with it is refused."""
    name, old = field.name, field.value
    for place in dict.fromkeys(chain(before, after)):
        was, now = before.get(place, _MISSING), after.get(place, _MISSING)
        if same(was, now):
            continue
        change = "is there only for some values" if _MISSING in (was, now) else f"becomes {now!r} for {was!r}"
        told = f"with {new!r} instead of {old!r}, {_told(place)} {change}"
        if _MISSING in (was, now) or not _is_open(place):
            raise UnsupportedError(
                f"runtime: {name!r} decides on the shape of the pipeline, so it can't stay open: {told}"
            )
        if not (same(was, old) and same(now, new)):
            raise UnsupportedError(f"runtime: {name!r} can't stay open, as it is not passed on as it is: {told}")
        if any(isinstance(part, int) or "." in part for part in place[3:] if place[2] == "parameters"):
            raise UnsupportedError(
                f"runtime: {name!r} can't stay open: it fills {_told(place)}, which has no dotted name "
                f"(a place in a list, or a key with a dot)"
            )
        yield place


def _is_open(place: Path) -> bool:
    """Whether a document can leave this place open: a parameter of a task, or a condition's threshold."""
    match place:
        case ("tasks", _, "parameters", _, *_) | ("tasks", _, "conditions", _, "threshold"):
            return True
    return False


def _dumped(spec: PipelineSpec) -> dict[Path, object]:
    """All values of a spec by path, tasks by name; empty groups count as values."""
    plain = spec.model_dump(mode="json", exclude={"components"})
    plain["tasks"] = {task["name"]: task for task in plain["tasks"]}
    whole = {("components",): spec.components, ("order",): tuple(plain["tasks"])}
    return whole | dict(_leaves(plain, ()))


def _leaves(value: JsonValue, path: Path) -> Iterator[tuple[Path, object]]:
    below: Iterator[tuple[str | int, JsonValue]] = iter(())
    if isinstance(value, Mapping):
        below = iter(value.items())
    elif isinstance(value, list):
        below = iter(enumerate(value))
    empty = True
    for key, item in below:
        empty = False
        yield from _leaves(item, (*path, key))
    if empty:
        yield path, value


def _told(place: Path) -> str:
    """A path as a person reads it."""
    if place[0] == "order":
        return "the list of tasks"
    task = f"task {place[1]!r}: " if place[0] == "tasks" else ""
    return task + ".".join(str(part) for part in (place[2:] if task else place))


def _parameter(field: FieldValue, places: Sequence[Path]) -> RuntimeParameter:
    filled = [place for place in places if place[2] == "parameters"]
    kind = kind_of(field) if filled else "float"  # a threshold is compared with a metric
    return RuntimeParameter(
        name=field.name,
        kind=kind,
        default=float(field.value) if kind == "float" else field.value,
        description=" ".join(str(field.schema["description"]).split()),
        choices=tuple(choices_of(field)),
        fills=tuple(OpenField(task=str(place[1]), path=".".join(map(str, place[3:]))) for place in filled),
    )
