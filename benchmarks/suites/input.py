"""Training input: batches of our records beside batches of folders of photographs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from benchmarks.machine import cores
from benchmarks.picture_records import write_picture_records
from benchmarks.plan import Case, Contender, Limit, Ratio, Setting

__all__ = ["ABOUT", "TITLE", "cases"]

TITLE = "Training input"
ABOUT = (
    "Float32 batches of 32 pictures of 224x224 with one-hot labels, shuffled, without augmentation: ours from records "
    "that preprocess has made, once, of the photographs that the others decode and resize again in each pass. Samples "
    "a second after the first five batches."
)

_SIDE, _QUICK_SIDE = 224, 32
_BATCH = 32
_PHOTOGRAPHS, _QUICK_PHOTOGRAPHS = 1680, 64
_STEPS, _QUICK_STEPS = 24, 4
_STEP_SIDE = 96
_CACHE_MIB = 1024


def cases(setting: Setting) -> Iterator[Case]:
    """Samples a second on one core and on two; then whether a training step waits."""
    counted = [count for count in (1, 2) if setting.wants(f"cores-{count}") and count <= len(cores())]
    if counted:
        side = setting.size(_SIDE, _QUICK_SIDE)
        photographs = setting.photographs(setting.size(_PHOTOGRAPHS, _QUICK_PHOTOGRAPHS))
        for encoding in ("jpeg", "raw"):
            write_picture_records(photographs, setting.scratch / encoding, side, encoding)
        for count in counted:
            yield _samples(count, photographs, side, setting)
    if setting.wants("step"):
        yield _step(setting)


def _samples(count: int, photographs: Path, side: int, setting: Setting) -> Case:
    taken: dict[str, JsonValue] = {"batch": _BATCH, "seconds": setting.seconds}
    theirs: dict[str, JsonValue] = {**taken, "photographs": str(photographs), "side": side}
    ours = tuple(
        Contender(
            name=name, about=f"millrace.training.data.training_batches, {told}", script="ours/input.py", cores=count,
            arguments={**taken, "records": str(setting.scratch / encoding), "cache_mib": cache},
            packages=("tensorflow",),
        )
        for name, encoding, cache, told in (
            ("records, jpeg", "jpeg", 0, "JPEG records, read and decoded in each pass"),
            ("records, raw", "raw", 0, "raw records, read in each pass"),
            ("records, cached", "jpeg", _CACHE_MIB, f"JPEG records, cache_mib={_CACHE_MIB}: decoded once"),
        )
    )  # fmt: skip
    return Case(
        name=f"cores-{count}",
        title=f"Samples a second on {'one core' if count == 1 else f'{count} cores'}",
        about=(
            "records, cached is what training does by itself with data that fit cache_mib. JPEG records, decoded "
            "again in each pass, can't be faster than libjpeg-turbo decodes pictures of this size."
        ),
        unit="samples",
        same_work=False,
        contenders=(
            *ours,
            _peer("directory", "keras.utils.image_dataset_from_directory", count, {**theirs, "cached": False}),
            _peer(
                "directory, cached",
                "the same, .cache().shuffle(1000).batch(32), after the first pass",
                count,
                {**theirs, "cached": True},
            ),
            _peer("generator", "ImageDataGenerator(rescale=1/255).flow_from_directory", count, theirs),
        ),
        ratios=(
            *(Ratio(name=one.name, beside="directory", target=5.0) for one in ours),
            *(Ratio(name=one.name, beside="generator", target=10.0) for one in ours),
            Ratio(name="records, cached", beside="directory, cached"),
        ),
    )


def _peer(name: str, about: str, count: int, arguments: dict[str, JsonValue]) -> Contender:
    return Contender(
        name=name,
        about=about,
        script="peers/input_generator.py" if name == "generator" else "peers/input_directory.py",
        environment="tensorflow",
        arguments=arguments,
        cores=count,
        packages=("tensorflow", "keras", "pillow"),
    )


def _step(setting: Setting) -> Case:
    """The default network, on records that are read and decoded in each pass."""
    photographs = setting.photographs(setting.size(_PHOTOGRAPHS, _QUICK_PHOTOGRAPHS))
    side = setting.size(_STEP_SIDE, _QUICK_SIDE)
    folder = setting.scratch / "step"
    write_picture_records(photographs, folder, side, "jpeg")
    count = min(2, len(cores()))
    steps = setting.size(_STEPS, _QUICK_STEPS)
    theirs: dict[str, JsonValue] = {"photographs": str(photographs), "side": side, "steps": steps}
    return Case(
        name="step",
        title=f"What a training step waits for its input: a small convolutional network, {side}x{side}, {count} cores",
        about=f"Steps of {_BATCH} pictures; the share of a step that passes before its batch is there.",
        unit="samples",
        contenders=(
            Contender(
                name="records, jpeg", about="the train component with profile=true, cache_mib=0", script="ours/step.py",
                arguments={"records": str(folder), "cache_mib": 0, "cores": count, "steps": steps}, cores=count,
                packages=("tensorflow", "keras"),
            ),
            Contender(
                name="directory", about="keras.utils.image_dataset_from_directory, train_on_batch",
                script="peers/step_directory.py", environment="tensorflow", arguments=theirs, cores=count,
                packages=("tensorflow", "keras"),
            ),
        ),
        ratios=(Ratio(name="records, jpeg", beside="directory"),),
        limits=(
            Limit(name="records, jpeg", figure="waiting_share", most=0.02),
            Limit(name="directory", figure="waiting_share"),
        ),
    )  # fmt: skip
