"""What ends a command of the evaluation.

    EvaluationError          run it again, or change what the message names     exit 1
    ├── CalibrationError     the records cannot give what was asked for
    ├── DatasetError         a file of a data set is missing or wrong
    ├── OtherRunError        the folder holds records of another model or data set
    ├── RecordsError         a line of a file of records cannot be read
    └── MissingPieceError    something is not installed or not here             exit 2

The edge's errors and a server that does not start end a command too, with exit code 1; a model that cannot be
loaded with 2.
"""

from __future__ import annotations


class EvaluationError(Exception):
    """A failure that is told in one line."""

    exit_code = 1


class CalibrationError(EvaluationError):
    """The records cannot give what was asked for; the message says what they can."""


class DatasetError(EvaluationError):
    """A file of a data set is missing or not what it should be; the message names file and field."""


class OtherRunError(EvaluationError):
    """The folder holds records of another model or data set."""


class RecordsError(EvaluationError):
    """A line in the middle of a file of records cannot be read; the message names file and line."""


class MissingPieceError(EvaluationError):
    """Something is not installed or not here; the message says what to do."""

    exit_code = 2
