"""What is measured: networks, ways to train them, and the ratios that are asked of them. Light: loads no TensorFlow."""

from __future__ import annotations

from typing import Literal, NamedTuple

from millrace.specs import Frozen
from millrace.training.options.models import Cnn, Mlp
from millrace.training.parameters import TrainParameters

__all__ = ["GROUPS", "SHAPES", "Group", "Net", "Ratio", "Team", "Way", "batch_of", "parameters_of"]

Net = Literal["small", "conv", "heavy"]
Way = Literal["fit", "trainer", "mirrored"]
"""fit: a bare `keras.Model.fit`; trainer: the train component's own; mirrored: MultiWorkerMirroredStrategy."""

SHAPES: dict[Net, tuple[int, int, Literal[1, 3]]] = {"small": (8, 8, 1), "conv": (32, 32, 3), "heavy": (16, 16, 3)}
"""Height, width and channels of the pictures."""
_MODELS: dict[Net, Cnn | Mlp] = {
    "small": Cnn(),
    "conv": Cnn(filters=(32, 64, 64), batch_norm=False, dropout=0),
    "heavy": Mlp(units=(2048, 1024), dropout=0),
}
"""small: the default, of which a step takes a few milliseconds; conv: mostly convolutions; heavy: mostly weights."""
_BATCH = 32
"""Pictures of a step, on each core."""
_ENDLESS = 1_000_000_000


class Team(Frozen):
    """Processes, each on a core of its own, that are measured together."""

    name: str
    net: Net
    way: Way = "trainer"
    processes: int = 1
    strategy: Literal["single", "multiworker", "horovod"] = "single"
    """What joins several processes; single: each trains a model of its own."""
    accumulate: int = 1
    """Steps that change the weights once."""

    @property
    def joined(self) -> bool:
        """Whether the processes train one model together."""
        return self.strategy != "single"


class Ratio(NamedTuple):
    """Pictures a second of one team beside those of another."""

    team: str
    beside: str
    target: float | None
    """At least; None: only told."""


class Group(NamedTuple):
    """Teams that are measured in turn, round by round."""

    title: str
    teams: tuple[Team, ...]
    ratios: tuple[Ratio, ...]


def _pairs(net: Net) -> tuple[Team, ...]:
    return (
        Team(name="independent", net=net, processes=2),
        Team(name="independent, accumulating 4", net=net, processes=2, accumulate=4),
        Team(name="horovod", net=net, processes=2, strategy="horovod"),
        Team(name="horovod, accumulating 4", net=net, processes=2, strategy="horovod", accumulate=4),
        Team(name="multiworker", net=net, processes=2, strategy="multiworker"),
        Team(name="mirrored", net=net, processes=2, strategy="multiworker", way="mirrored"),
    )


_SINGLE = (Ratio("trainer", "fit", 0.97),)
GROUPS: dict[str, Group] = {
    "single": Group(
        "A network of mostly convolutions, one core",
        (Team(name="fit", net="conv", way="fit"), Team(name="trainer", net="conv")),
        _SINGLE,
    ),
    "single-small": Group(
        "The default network on tiny pictures, one core: a step is short, so that what surrounds it shows",
        (Team(name="fit", net="small", way="fit"), Team(name="trainer", net="small")),
        _SINGLE,
    ),
    "ranks": Group(
        "Two processes, a network of mostly convolutions",
        _pairs("conv"),
        (
            Ratio("horovod", "independent", 0.88),
            Ratio("horovod, accumulating 4", "independent", 0.97),
            Ratio("horovod, accumulating 4", "independent, accumulating 4", None),
            Ratio("horovod", "mirrored", 1.0),
            Ratio("horovod", "multiworker", None),
        ),
    ),
    "ranks-heavy": Group(
        "Two processes, a network of mostly weights: adding up gradients shows",
        _pairs("heavy"),
        (
            Ratio("horovod", "mirrored", 1.5),
            Ratio("horovod", "independent", None),
            Ratio("horovod, accumulating 4", "independent, accumulating 4", None),
            Ratio("horovod", "multiworker", None),
        ),
    ),
}
"""By the name of the case."""


def batch_of(team: Team) -> int:
    """Pictures of a step of one process."""
    return _BATCH


def parameters_of(team: Team) -> TrainParameters:
    """One endless epoch; all else is as by default, checkpoints too."""
    return TrainParameters(
        model=_MODELS[team.net],
        epochs=1,
        steps_per_epoch=_ENDLESS,
        batch_size=_BATCH * (team.processes if team.joined and team.way == "trainer" else 1),
        gradient_accumulation_steps=team.accumulate,
        strategy=team.strategy,
        validation="end",
        early_stopping=None,
    )
