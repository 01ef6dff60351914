"""Write the plan, and a manifest and a table for each shard."""

from __future__ import annotations

from millrace.components.shard.earlier import read_earlier
from millrace.components.shard.seats import read_listed, take_seats
from millrace.components.shard.spec import ShardInputs, ShardOutputs, ShardParameters
from millrace.components.shard.writing import write_shards
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import Catalogue, PlannedShard, ShardPlan, read_json_model

__all__ = ["main"]


def main(parameters: ShardParameters, inputs: ShardInputs, outputs: ShardOutputs, context: Context) -> Result:
    """Seat each channel's objects and write its shards."""
    index = inputs.manifest.path / "index.parquet"
    listed = read_listed(index, hashes=parameters.previous is not None)
    catalogue = read_json_model(inputs.manifest.path / "classes.json", Catalogue)
    earlier = read_earlier(parameters.previous, context.scratch) if parameters.previous else {}
    seats = take_seats(listed, parameters, earlier)
    if earlier and not seats.known:
        context.log.warning(
            "shard.previous=%s has none of these objects: is it of another source? All are dealt anew",
            parameters.previous,
        )
    plan = write_shards(index, outputs.shards.path, seats, context)
    text = ShardPlan(**catalogue.model_dump(), shards=plan).model_dump_json(indent=2)
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


def _imbalance(planned: tuple[PlannedShard, ...]) -> float:
    sizes = [item.bytes for item in planned]
    return max(sizes) * len(sizes) / sum(sizes) - 1 if sum(sizes) else 0.0
