"""Knowledge distillation: a network learns a larger one's answers beside the labels."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from millrace.runtime.schemas import RecordsSchema
from millrace.training.options.reuse import Teacher
from millrace.training.reuse import Reused, load

__all__ = ["distil", "divergence"]

_SMALLEST = 1e-30
"""Of probabilities whose logarithm is taken, well within float32."""


def distil(model: Any, choice: Teacher, teacher: Reused, schema: RecordsSchema) -> None:
    """Add a teacher to the training loss of a compiled model; validation and the saved model know nothing of it.

    The loss is that of Hinton, Vinyals and Dean (2015), "Distilling the Knowledge in a Neural Network":
    `(1 - alpha) * cross entropy + alpha * temperature**2 * KL(teacher || student)`, both at that temperature, on
    the same augmented batch. The factor keeps the gradients' size whatever the temperature. Weights of examples
    count in both parts.

    Raises:
        DataError: When the teacher has other classes or takes other records.
    """
    known = load(teacher, schema, same_classes=True)
    known.trainable = False
    own = model.compute_loss

    def compute_loss(
        x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        hard = own(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if not training:
            return hard
        soft = divergence(known(x, training=False), y_pred, choice.temperature)
        if sample_weight is not None:
            soft = soft * tf.cast(sample_weight, soft.dtype)
        return (1 - choice.alpha) * hard + choice.alpha * choice.temperature**2 * tf.reduce_mean(soft)

    model.compute_loss = compute_loss


def divergence(teacher: Any, student: Any, temperature: float) -> Any:
    """Kullback-Leibler divergence of the student's answers from the teacher's at a temperature.

    Args:
        teacher: Probabilities [N, classes]; gradients do not flow into them.
        student: Probabilities [N, classes].
        temperature: What the logits are divided by. A probability's logarithm is its logit but for a constant, which
            softmax does not see.

    Returns:
        float32 [N].
    """
    wanted = tf.stop_gradient(_softened(teacher, temperature))
    return tf.reduce_sum(tf.exp(wanted) * (wanted - _softened(student, temperature)), axis=-1)


def _softened(probabilities: Any, temperature: float) -> Any:
    """Logarithms of the probabilities at a temperature."""
    logits = tf.math.log(tf.maximum(tf.cast(probabilities, tf.float32), _SMALLEST))
    return tf.nn.log_softmax(logits / temperature)
