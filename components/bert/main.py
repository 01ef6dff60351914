"""Train a BERT text classifier on record files."""

from __future__ import annotations

from millrace.components.bert.spec import BertParameters
from millrace.errors import ConfigError
from millrace.runtime.context import Context, Result
from millrace.runtime.schemas import RecordsSchema, TextRecords
from millrace.training.parameters import TrainInputs, TrainOutputs
from millrace.training.start import start
from millrace.training.studies import with_best

__all__ = ["main"]


def main(parameters: BertParameters, inputs: TrainInputs, outputs: TrainOutputs, context: Context) -> Result:
    """Train, save the model and report its figures."""
    parameters = with_best(parameters, inputs.study, context.log, "bert")
    told = parameters.training()
    given = TrainInputs(records=inputs.records, base=inputs.base, teacher=inputs.teacher)
    return start(told, given, outputs, context, lambda data: _check(parameters, data.schema))


def _check(parameters: BertParameters, schema: RecordsSchema) -> None:
    if not isinstance(schema, TextRecords):
        raise ConfigError(f"bert is for texts, the records hold {schema.things}: use `train`, or records of texts")
    if parameters.max_seq_length not in (None, schema.max_seq_length):
        raise ConfigError(
            f"max_seq_length={parameters.max_seq_length}, but the records have texts of up to {schema.max_seq_length} "
            "tokens: set preprocess.data.max_seq_length to the same, or leave it out here"
        )
