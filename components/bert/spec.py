"""The `bert` component: what it takes and gives."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from millrace.specs import Parameters, Resources, component
from millrace.training.options.debug import Debug
from millrace.training.options.elastic import Elastic
from millrace.training.options.models import Bert
from millrace.training.options.optimizers import Adam
from millrace.training.options.parallel import Parallel
from millrace.training.options.reuse import FineTuning, Teacher
from millrace.training.options.schedules import Constant, EarlyStopping, Schedule
from millrace.training.parameters import TrainInputs, TrainOutputs, TrainParameters

__all__ = ["BertParameters", "TrainInputs", "TrainOutputs", "bert"]

Batch = Annotated[int, Field(ge=1, le=65_536)]
_SAMPLES = 5


class BertParameters(Parameters):
    """Train a BERT text classifier; the first nineteen are the hyperparameters of AWS' reference estimator."""

    epochs: int = Field(default=3, ge=1, le=100_000)
    """Epochs; `early_stopping` may end before."""
    learning_rate: float = Field(default=3e-5, gt=0, le=100)
    """Highest learning rate of Adam; random weights want about 5e-4."""
    epsilon: float = Field(default=1e-8, gt=0)
    """Keeps Adam's divisions away from zero."""
    train_batch_size: Batch = Field(default=32)
    """Texts a step, on all hosts together."""
    validation_batch_size: Batch = Field(default=256)
    """Texts a batch of validation, on all hosts together."""
    test_batch_size: Batch = Field(default=256)
    """Texts a batch of the test, on all hosts together."""
    train_steps_per_epoch: int | None = Field(default=None, ge=1)
    """Steps an epoch; None takes every training text once."""
    validation_steps: int | None = Field(default=None, ge=1)
    """Batches of each validation; None takes all validation texts."""
    test_steps: int | None = Field(default=None, ge=1)
    """Batches of the test, when there is one; None takes all test texts."""
    use_xla: bool = Field(default=False)
    """Compile the step with XLA. Two runs then need not end with the same bits."""
    use_amp: bool = Field(default=False)
    """Mixed precision, of `amp_dtype`."""
    max_seq_length: int | None = Field(default=None, ge=3, le=8192)
    """Most tokens of a text. `preprocess` has cut the texts already: another length than the records' is refused. None
    takes the records'."""
    freeze_bert_layer: bool = Field(default=False)
    """Train the classes on top only; needs `model.weights`."""
    enable_sagemaker_debugger: bool = Field(default=False)
    """Look at gradients and activations as `debug` says, by the rules of SageMaker Debugger: warnings in the log,
    plots in the report. It needs neither SageMaker nor its hook."""
    enable_checkpointing: bool = Field(default=True)
    """Write checkpoints. Without them a run that was interrupted begins anew."""
    enable_tensorboard: bool = Field(default=True)
    """Write TensorBoard's event files."""
    run_validation: bool = Field(default=True)
    """Score the validation texts after each epoch; false scores them once at the end: accuracy and loss are always
    reported."""
    run_test: bool = Field(default=False)
    """Score the test texts in the end, as test_loss and test_accuracy."""
    run_sample_predictions: bool = Field(default=False)
    """Show five test texts with the saved model's answers, in the log and in the report."""

    model: Bert = Field(default=Bert())
    """Size and weights of the encoder."""
    buckets: tuple[Annotated[int, Field(ge=3)], ...] | None = Field(default=None, min_length=1)
    """Lengths that batches are padded to, as in `train`: `[16, 32]` for texts of which most are short."""
    schedule: Schedule = Field(default=Constant())
    """How the learning rate goes on, by kind."""
    gradient_clip_norm: float | None = Field(default=None, gt=0)
    """Gradients are scaled down to this global norm when they exceed it."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=65_536)
    """The weights change once in so many steps."""
    amp_dtype: Literal["auto", "float16", "bfloat16"] = Field(default="auto")
    """Type of the activations with `use_amp`. auto: float16 with loss scaling on a GPU, bfloat16 on processors."""
    gradient_compression: Literal["none", "fp16"] = Field(default="none")
    """How gradients travel between ranks, as in `train`."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target spread over all classes."""
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = Field(default="none")
    """Weight of each class in the loss: balanced makes all classes count alike; or a number a class name."""
    early_stopping: EarlyStopping | None = Field(default=None)
    """When to end before the last epoch; None runs all epochs and saves the last weights."""
    checkpoint_steps: int = Field(default=200, ge=1)
    """Steps between two checkpoints, with `enable_checkpointing`."""
    debug: Debug = Field(default=Debug())
    """What `enable_sagemaker_debugger` looks at."""
    fine_tuning: FineTuning | None = Field(default=None)
    """Start from a trained model, in up to two phases, as in `train`."""
    teacher: Teacher | None = Field(default=None)
    """Learn from a larger model's answers, too, as in `train`."""
    strategy: Literal["auto", "single", "multiworker", "horovod"] = Field(default="auto")
    """How several ranks train one model, as in `train`."""
    scaling: Literal["none", "linear", "sqrt"] = Field(default="none")
    """Whether batch size and learning rate grow with the number of ranks, as in `train`."""
    sharding: Literal["auto", "data", "file"] = Field(default="auto")
    """Which records a rank reads, as in `train`."""
    parallel: Parallel = Field(default=Parallel())
    """Large layers in parts on several ranks, as in `train`: the vocabulary's embedding, for one."""
    elastic: Elastic | None = Field(default=None)
    """Go on when ranks or hosts are lost, as in `train`."""
    profile: bool = Field(default=False)
    """Show where the time of the epochs goes, as in `train`."""
    peer_seconds: float = Field(default=600.0, ge=1, le=86_400)
    """How long a host waits for another that does not answer."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of weights, order and dropout."""

    @model_validator(mode="after")
    def _possible(self) -> BertParameters:
        if self.freeze_bert_layer and self.model.weights is None:
            raise ValueError(
                "freeze_bert_layer=true freezes random weights: give model.weights as well; the encoder of a trained "
                "model is frozen by fine_tuning.unfreeze=0"
            )
        monitor = self.early_stopping.monitor if self.early_stopping else getattr(self.schedule, "monitor", "")
        if not self.run_validation and monitor.startswith("validation_"):
            raise ValueError(f"run_validation=false gives no {monitor} after an epoch: watch loss or accuracy instead")
        self.training()
        return self

    def training(self) -> TrainParameters:
        """What the training is told."""
        trainable = self.model.trainable and not self.freeze_bert_layer
        told: dict[str, Any] = {
            "model": self.model.model_copy(update={"trainable": trainable}),
            "optimizer": Adam(epsilon=self.epsilon),
            "batch_size": self.train_batch_size,
            "steps_per_epoch": self.train_steps_per_epoch,
            "validation": "epochs" if self.run_validation else "end",
            "test_steps": self.test_steps if self.run_test else 0,
            "sample_predictions": _SAMPLES if self.run_sample_predictions else 0,
            "checkpoint_steps": self.checkpoint_steps if self.enable_checkpointing else None,
            "tensorboard": self.enable_tensorboard,
            "debug": self.debug if self.enable_sagemaker_debugger else None,
            "amp": self.use_amp,
            "xla": self.use_xla,
            "deterministic": not self.use_xla,
        }
        alike = BertParameters.model_fields.keys() & TrainParameters.model_fields.keys() - told.keys()
        return TrainParameters(**told, **{name: getattr(self, name) for name in alike})


bert = component(
    name="bert",
    version="1",
    description="Train a BERT text classifier with Keras, resumable to the bit.",
    parameters=BertParameters,
    inputs=TrainInputs,
    outputs=TrainOutputs,
    main="millrace.components.bert.main:main",
    image="train",
    delegates=("training",),
    refuses="millrace.components.bert.refusals:refuse",
    uncached_when=("model.weights", "fine_tuning.model", "teacher.model"),
    module=__name__,
    resources=Resources(cpus=2, memory_gib=4),
)
