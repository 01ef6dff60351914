"""What training takes and gives."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from millrace.specs import (
    Inputs,
    Logs,
    Metric,
    Metrics,
    Model,
    Outputs,
    Parameters,
    Records,
    Study,
)
from millrace.training.options.debug import Debug
from millrace.training.options.elastic import Elastic
from millrace.training.options.images import Augmentation, Pixels
from millrace.training.options.models import Cnn, ModelChoice
from millrace.training.options.optimizers import Adam, Optimizer
from millrace.training.options.parallel import Parallel
from millrace.training.options.reuse import FineTuning, Teacher
from millrace.training.options.schedules import Constant, EarlyStopping, Schedule

__all__ = ["TrainInputs", "TrainOutputs", "TrainParameters"]


class TrainParameters(Parameters):
    """Train a classifier of pictures, texts or rows of tables on record files, with Keras on TensorFlow."""

    model: ModelChoice = Field(default=Cnn())
    """The network, by kind: cnn, mlp, application or custom for pictures, bert for texts, mlp or
    custom for rows of tables."""
    fine_tuning: FineTuning | None = Field(default=None)
    """Start from a trained model or pretrained weights, in up to two phases. None starts from random weights, or gives
    the input `base`, if there is one, the defaults."""
    teacher: Teacher | None = Field(default=None)
    """Learn from a larger model's answers, too. None does not, unless there is an input `teacher`."""
    pixels: Pixels = Field(default=Pixels())
    """Scaling and normalisation of pictures, built into the saved model."""
    augmentation: Augmentation = Field(default=Augmentation())
    """Random changes of training images."""
    optimizer: Optimizer = Field(default=Adam())
    """How gradients change the weights, by kind."""
    learning_rate: float = Field(default=1e-3, gt=0, le=100)
    """Highest learning rate."""
    schedule: Schedule = Field(default=Constant())
    """How the learning rate goes on from there, by kind."""
    gradient_clip_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down to this global norm when they exceed it."""
    epochs: int = Field(default=20, ge=1, le=100_000)
    """At most that many epochs."""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Records of a step at most, on all ranks together; each rank takes its part of them. See `scaling`."""
    steps_per_epoch: int | None = Field(default=None, ge=1)
    """Steps an epoch, the data going on where the epoch before ended; None takes every training record once."""
    validation: Literal["epochs", "end"] = Field(default="epochs")
    """When the validation records are scored: after each epoch; or once at the end, with the weights that are saved."""
    validation_batch_size: int | None = Field(default=None, ge=1, le=65_536)
    """Records of a batch of validation, on all hosts together; None takes `batch_size`."""
    validation_steps: int | None = Field(default=None, ge=1)
    """Batches of each validation; None takes all validation records."""
    test_batch_size: int | None = Field(default=None, ge=1, le=65_536)
    """Records of a batch of testing, on all hosts together; None takes `batch_size`."""
    test_steps: int | None = Field(default=0, ge=0)
    """Batches of the test channel to score the saved weights with, as test_loss and test_accuracy; None takes all test
    records, 0 leaves testing to `evaluate`."""
    sample_predictions: int = Field(default=0, ge=0, le=1000)
    """So many test records are shown with the saved model's answers, in the log and in the report."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target spread over all classes."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = Field(default="none")
    """Weight of each class in the loss: balanced makes all classes count alike; or a number a class name."""
    early_stopping: EarlyStopping | None = Field(default=EarlyStopping())
    """None runs all epochs and saves the last weights."""
    checkpoint_steps: int | None = Field(default=200, ge=1)
    """Steps between two checkpoints; a run that was killed goes on from the last one, to the same weights. None writes
    none at all: it begins anew then."""
    tensorboard: bool = Field(default=True)
    """Write TensorBoard's event files; without them the output `logs` is empty."""
    shuffle_buffer: int = Field(default=10_000, ge=1)
    """Records to draw from at random when the data do not fit `cache_mib`."""
    cache_mib: int = Field(default=512, ge=0)
    """Decoded training images up to this size (MiB) are kept in memory, and shuffled as a whole."""
    buckets: tuple[Annotated[int, Field(ge=3)], ...] | None = Field(default=None, min_length=1)
    """Lengths of texts, rising: a batch is padded to the first that holds its longest text, or else to the records'
    `max_seq_length`, instead of always to that. Answers are the same, steps over short texts are faster."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=65_536)
    """The weights change once in so many steps, by the mean of their gradients, as by one step of as many records;
    ranks exchange something only then. What is left at the end of an epoch counts as it is."""
    gradient_compression: Literal["none", "fp16"] = Field(default="none")
    """How gradients travel between ranks. fp16 halves what is sent and rounds it; slower on processors."""
    amp: bool = Field(default=False)
    """Mixed precision, of `amp_dtype`."""
    amp_dtype: Literal["auto", "float16", "bfloat16"] = Field(default="auto")
    """Type of the activations with `amp`. float16 comes with loss scaling. auto: float16 on a GPU, bfloat16 on
    processors."""
    xla: bool = Field(default=False)
    """Compile the step with XLA; needs `deterministic=false`. Of several ranks, sums over them stay outside."""
    deterministic: bool = Field(default=True)
    """Only operations that give the same bits each time; false can be faster on a GPU."""
    strategy: Literal["auto", "single", "multiworker", "horovod"] = Field(default="auto")
    """How several ranks train one model, in step. horovod: processes on one host or several, gradients added up by
    Horovod. multiworker: one process a host, gradients added up by TensorFlow over gRPC. auto: single with one rank,
    else horovod where it is installed, else multiworker."""
    scaling: Literal["none", "linear", "sqrt"] = Field(default="none")
    """linear, sqrt: `batch_size` is that of each rank, and `learning_rate` is multiplied by the number of ranks, or its
    square root; a run that goes on with another number of ranks keeps its first one for this. none: both as given."""
    sharding: Literal["auto", "data", "file"] = Field(default="auto")
    """Which records a rank reads. data: every host has all record files, and each rank takes its part of each step.
    file: each rank reads record files of its own. auto: file when the hosts were given different files, else data."""
    parallel: Parallel = Field(default=Parallel())
    """Large Dense and Embedding layers in parts on several ranks, as `parallel.tensor=2`; needs Horovod."""
    peer_seconds: float = Field(default=600.0, ge=1, le=86_400)
    """How long a host waits for another that does not answer, at the start and in each step, before the run fails.
    A host that ends is noticed at once."""
    elastic: Elastic | None = Field(default=None)
    """Go on when ranks or hosts are lost, with Horovod; None ends the run then."""
    debug: Debug | None = Field(default=None)
    """Look at gradients and activations now and then: warnings in the log, plots in the report. None does not."""
    profile: bool = Field(default=False)
    """Measure what each step waits for input, computes and adds up over ranks: a plot in the report."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of weights, order, augmentation and dropout."""

    @model_validator(mode="after")
    def _possible(self) -> TrainParameters:
        if self.xla and self.deterministic:
            raise ValueError("xla=true needs deterministic=false: TensorFlow does not compile deterministic steps")
        for name in ("early_stopping", "schedule"):
            monitor = getattr(getattr(self, name), "monitor", "")
            if self.validation == "end" and monitor.startswith("validation_"):
                raise ValueError(
                    f"validation=end gives no {monitor} after an epoch, which {name}.monitor asks for: watch loss or "
                    f"accuracy, or use {name}={'null' if name == 'early_stopping' else 'constant'}"
                )
        if self.buckets is not None and list(self.buckets) != sorted(set(self.buckets)):
            raise ValueError(f"buckets must rise: {list(self.buckets)}")
        if self.fine_tuning is not None and self.fine_tuning.frozen_epochs >= self.epochs:
            raise ValueError(
                f"fine_tuning.frozen_epochs={self.fine_tuning.frozen_epochs} leaves no epoch of {self.epochs} for the "
                "second phase: use fewer, or unfreeze=0 to train the head alone"
            )
        if self.fine_tuning is not None and not getattr(self.model, "trainable", True):
            raise ValueError("model.trainable=false trains the head alone, which fine_tuning.unfreeze=0 does: use that")
        return self


class TrainInputs(Inputs):
    """What training reads."""

    records: Records
    """Record files of the train and validation channels."""
    study: Study | None = None
    """A finished search, whose best parameters are put over this task's own."""
    base: Model | None = None
    """A trained model to start from, as `fine_tuning.model` names one."""
    teacher: Model | None = None
    """A trained model to learn from, as `teacher.model` names one."""


class TrainOutputs(Outputs):
    """What training writes."""

    model: Model
    """`model.keras`, `saved_model/` and `model.json`."""
    metrics: Metrics
    """Last figures and learning curves."""
    logs: Logs
    """TensorBoard event files of both channels."""
    accuracy: Metric
    """Validation accuracy of the saved weights."""
    loss: Metric
    """Validation loss of the saved weights."""
    epochs: Metric
    """Epochs run."""
