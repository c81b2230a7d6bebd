"""Read sample submissions, and write and check submissions.

A submission is a table with one row per video: its name, and the probability P(FAKE) that it is
fake. If there is a sample submission, it gives the names of the videos and the order of the rows.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dfdetect.defaults import DEFAULT_PRIOR
from dfdetect.errors import InputError
from dfdetect.files import atomic_path, inert, read_table
from dfdetect.results import VideoResult, to_dataframe

COLUMNS = ["filename", "label"]


class SubmissionError(InputError):
    """The competition would refuse a submission, or a sample submission cannot be used.

    The message names the file and says what is wrong.
    """


def read_sample_submission(path: str | Path) -> list[str]:
    """Return the names of the videos in a sample submission, in the order of the rows.

    Raises:
        FileNotFoundError: The file does not exist.
        SubmissionError: The file is no CSV table, or has no column `filename`, no rows, or the same
            name twice.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such sample submission")
    table = read_table(path, ("filename",), SubmissionError)
    if "filename" not in table:
        raise SubmissionError(f"{path}: no column 'filename'; its header should be filename,label")
    names = table["filename"].tolist()
    if not names:
        raise SubmissionError(f"{path}: no rows")
    _require_unique(path, table["filename"])
    return names


def write_submission(
    path: str | Path,
    names: Sequence[str],
    results: Mapping[str, VideoResult],
    prior: float = DEFAULT_PRIOR,
    *,
    verify: bool = True,
) -> None:
    """Write a submission. If an error occurs, an existing file remains unchanged.

    Args:
        path: The file to write.
        names: The names of the videos, in the order of the rows.
        results: A dictionary from names of videos to results. If the result of a video is missing
            or has no probability, `prior` is written.
        prior: P(FAKE) for videos without a score, strictly between 0 and 1.
        verify: Whether to check the new file before an existing file is replaced.

    Raises:
        SubmissionError: `verify` is True, and the competition would refuse the new file.
    """
    rows = []
    for name in names:
        result = results.get(name)
        probability = None if result is None else result.probability
        rows.append((name, prior if probability is None else probability))
    with atomic_path(path) as temporary:
        _write_csv(temporary, pd.DataFrame(rows, columns=COLUMNS))
        if verify:
            check_submission(temporary, names)


def write_details(path: str | Path, results: Mapping[str, VideoResult]) -> None:
    """Write the results to a CSV file with the columns of `dfdetect.results.to_dataframe`.

    If a video has no score, its cell in the column `probability` is empty. If a spreadsheet
    program would read a text as a formula, an apostrophe is put in front of the text.
    """
    table = to_dataframe(results.values())
    for column in ("filename", "message", "path"):
        table[column] = table[column].map(inert, na_action="ignore")
    with atomic_path(path) as temporary:
        _write_csv(temporary, table)


def check_submission(path: str | Path, names: Sequence[str]) -> pd.DataFrame:
    """Check that the competition would accept a submission, and return it as a table.

    Args:
        path: The submission.
        names: The names of the videos that the submission must have, in the order of the rows.

    Returns:
        The table, with the columns `filename` and `label`.

    Raises:
        SubmissionError: The file is no CSV table, or the columns, the names, the order of the rows
            or the values are wrong.
    """
    table = read_table(path, ("filename",), SubmissionError)
    if table.columns.tolist() != COLUMNS:
        raise SubmissionError(f"{path}: header {','.join(table.columns)}, not {','.join(COLUMNS)}")
    _require_unique(path, table["filename"])
    if table["filename"].tolist() != list(names):
        raise SubmissionError(f"{path}: its rows are not the {len(names)} requested names")
    labels = pd.to_numeric(table["label"], errors="coerce")
    bad = table.loc[~((labels > 0) & (labels < 1)), "filename"]
    if len(bad):
        raise SubmissionError(f"{path}: the label of {bad.iloc[0]!r} is not strictly in (0, 1)")
    return table.assign(label=labels)


def _require_unique(path: str | Path, names: pd.Series) -> None:
    twice = names[names.duplicated()]
    if len(twice):
        raise SubmissionError(f"{path}: {twice.iloc[0]!r} occurs twice")


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    # File names may be invalid UTF-8. File names may also contain carriage returns. Readers of CSV
    # files take a carriage return for the end of a line, unless the file name is quoted.
    odd = table["filename"].str.contains("\r", regex=False).any()
    quoting = csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL
    table.to_csv(path, index=False, quoting=quoting, errors="surrogateescape")
