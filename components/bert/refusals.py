"""What several ranks can't train together, and models that can't be reused."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from millrace.components.bert.spec import BertParameters
from millrace.errors import UserError
from millrace.specs import Distribution
from millrace.targets.kubeflow import ClusterWork
from millrace.training import refusals

__all__ = ["refuse"]

_NAMES = {
    "batch_size=": "train_batch_size=",
    "amp=": "use_amp=",
    "xla=": "use_xla=",
    "checkpoint_steps=null": "enable_checkpointing=false",
    r"checkpoint_steps=\d+": "enable_checkpointing=true",
    "debug=null": "enable_sagemaker_debugger=false",
    r"model\.trainable=false": "freeze_bert_layer=true",
}
"""What parameters of training are called here."""


def refuse(parameters: Mapping[str, Any], inputs: Collection[str], work: ClusterWork | Distribution) -> None:
    """Refuse while compiling what training would refuse later.

    Raises:
        UserError: As training does.
    """
    told = BertParameters.model_validate(parameters).training()
    try:
        refusals.refuse(told.model_dump(mode="json"), inputs, work)
    except UserError as error:
        message = str(error)
        for trained, own in _NAMES.items():
            message = re.sub(rf"(?<![\w.]){trained}", own, message)
        raise type(error)(message) from error
