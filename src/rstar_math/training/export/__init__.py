"""Training data as files that Hugging Face `datasets` and TRL read.

rows      what a line of each kind of data holds
files     JSONL (standard library) and Parquet (needs pyarrow): a file of rows, whole or not at all
card      the README of a folder of data
folder    a folder of data, whole or not at all, and back
"""

from rstar_math.training.export.folder import Origin, read_mark, read_rows, write_folder
from rstar_math.training.export.rows import (
    OutcomeRow,
    PreferenceRow,
    Row,
    SftRow,
    StepsRow,
    ValueRow,
)

__all__ = [
    "Origin",
    "OutcomeRow",
    "PreferenceRow",
    "Row",
    "SftRow",
    "StepsRow",
    "ValueRow",
    "read_mark",
    "read_rows",
    "write_folder",
]
