"""Write the plan, and a manifest and a table for each shard."""

from __future__ import annotations

from millrace.components.shard.earlier import read_earlier
from millrace.components.shard.seats import read_listed, take_seats
from millrace.components.shard.spec import ShardInputs, ShardOutputs, ShardParameters
from millrace.components.shard.writing import write_shards
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import CHANNELS, Catalogue, Channel, Dealing, PlannedShard, ShardPlan, read_json_model

__all__ = ["main"]


def main(parameters: ShardParameters, inputs: ShardInputs, outputs: ShardOutputs, context: Context) -> Result:
    """Seat each channel's objects and write its shards."""
    index = inputs.manifest.path / "index.parquet"
    listed = read_listed(index, hashes=parameters.previous is not None)
    catalogue = read_json_model(inputs.manifest.path / "classes.json", Catalogue)
    asked = _asked(parameters)
    earlier, first = read_earlier(parameters.previous, context.scratch) if parameters.previous else ({}, None)
    seats = take_seats(listed, parameters, earlier)
    if earlier and not seats.known:
        context.log.warning(
            "shard.previous=%s has none of these objects: is it of another source? All are dealt anew",
            parameters.previous,
        )
    elif first is not None and (unused := _differing(asked, first)):
        context.log.warning(
            "%s: not for the %d objects that shard.previous knows, which stay where they are; leave shard.previous out "
            "to deal all anew",
            unused,
            seats.known,
        )
    plan = write_shards(index, outputs.shards.path, seats, context)
    dealing = first if seats.known else asked
    text = ShardPlan(**catalogue.model_dump(), shards=plan, dealing=dealing).model_dump_json(indent=2)
    (outputs.shards.path / "plan.json").write_text(f"{text}\n", encoding="utf-8")
    objects, imbalance = len(seats.shards), max(_imbalance(planned) for planned in plan.values())
    metrics: dict[str, float] = {"objects": objects}
    uneven = ""
    if parameters.previous:
        before = sum(len(channel.hashes) for channel in earlier.values())
        metrics |= {"known": seats.known, "added": objects - seats.known, "gone": before - seats.known}
        context.log.info("%d objects stay in their shards, %d are new, %d are gone", *list(metrics.values())[1:])
        uneven = " (new objects have shards of their own; without shard.previous all are dealt evenly)"
    metrics["imbalance"] = imbalance
    told = (objects, sum(seats.counts.values()), 100 * imbalance, uneven)
    context.log.info("%d objects in %d shards, imbalance %.2f%%%s", *told)
    return Result(
        metrics=metrics,
        metadata={"shards": {"shards": {name: len(planned) for name, planned in plan.items()}}},
    )


def _asked(parameters: ShardParameters) -> Dealing:
    given = parameters.shards
    counts: dict[Channel, int] = {
        name: given if isinstance(given, int) else int(getattr(given, name)) for name in CHANNELS
    }
    return Dealing(shards=counts, order=parameters.order, seed=parameters.seed)


def _differing(asked: Dealing, before: Dealing) -> str:
    """The parameters that have other values than those that the known objects were dealt with."""
    told = {f"shard.shards.{name}": (count, before.shards.get(name, count)) for name, count in asked.shards.items()}
    if len(set(asked.shards.values())) == 1 == len(set(before.shards.values())):
        told = {"shard.shards": told["shard.shards.train"]}
    pairs = told | {"shard.order": (asked.order, before.order), "shard.seed": (asked.seed, before.seed)}
    return ", ".join(f"{name}={now} (it was {then})" for name, (now, then) in pairs.items() if now != then)


def _imbalance(planned: tuple[PlannedShard, ...]) -> float:
    sizes = [item.bytes for item in planned]
    return max(sizes) * len(sizes) / sum(sizes) - 1 if sum(sizes) else 0.0
