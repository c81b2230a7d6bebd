"""The metrics of an evaluation as a table for a paper, in Markdown or CSV."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from dfdetect.errors import ArgumentError
from dfdetect.evaluation.metrics import Metrics
from dfdetect.evaluation.result import EvaluationResult
from dfdetect.files import atomic_path

# Metrics in the order of the columns, with the names that papers use.
FIGURES = {
    "auc": "AUC",
    "average_precision": "AP",
    "eer": "EER",
    "tpr_at_1_fpr": "TPR at 1 % FPR",
    "tpr_at_5_fpr": "TPR at 5 % FPR",
    "accuracy": "accuracy at 0.5",
    "best_accuracy": "accuracy at the best threshold",
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "calibration_error": "ECE",
}
SUFFIXES = (".md", ".csv")


def to_table(result: EvaluationResult) -> pd.DataFrame:
    """Return the metrics of an evaluation as a table.

    Returns:
        A table with one row for all videos, one row for all crops, one row for each source (data
        set, camera or site), and one row for each method that made fakes. The columns are:

        - `part`: `videos`, `frames` (for all crops), `source` or `method`;
        - `name`: the name of the source or method, otherwise empty;
        - `n` and `fake_fraction`: the number of videos or crops, and the share of FAKE ones;
        - three columns for each metric: for example, `auc` is the AUC, and `auc_low` and `auc_high`
          are the ends of its 95 % interval. The ends are NaN if no interval was computed.

    Example:
        >>> to_table(evaluate("val.csv"))[["part", "auc", "auc_low", "auc_high"]]
    """
    rows = [("videos", "", result.metrics), ("frames", "", result.frame_level)]
    rows += [("source", name, one) for name, one in result.sources.items()]
    rows += [("method", name, one) for name, one in result.methods.items()]
    return pd.DataFrame([_row(*row) for row in rows])


def to_markdown(result: EvaluationResult) -> str:
    """Return the metrics and their 95 % intervals as a Markdown table, rounded to three places."""
    table = to_table(result)
    names = [
        part if not name else f"{part} {_escaped(name)}"
        for part, name in zip(table["part"], table["name"], strict=True)
    ]
    columns: dict[str, Sequence[str]] = {
        "": names,
        "n": [str(count) for count in table["n"]],
        "FAKE": [f"{share:.1%}" for share in table["fake_fraction"]],
    }
    for name, title in FIGURES.items():
        edges = table[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        columns[title] = [_cell(*values) for values in edges]
    return markdown(columns)


def markdown(columns: Mapping[str, Iterable[str]]) -> str:
    """Return a Markdown table. `columns` maps the title of each column to its cells."""
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def require_table_suffix(path: str | Path) -> None:
    """Check that the name of a table's file ends in `.md` or `.csv`.

    Raises:
        ArgumentError: The name does not end in `.md` or `.csv`.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ArgumentError(f"{path}: the name of a table must end in {' or '.join(SUFFIXES)}")


def write_table(path: str | Path, result: EvaluationResult) -> None:
    """Write the metrics of an evaluation as a table.

    The format is Markdown if the name of the file ends in `.md`, and CSV if it ends in `.csv`.

    Raises:
        ArgumentError: The name of the file does not end in `.md` or `.csv`.
        OSError: The file cannot be written.
    """
    require_table_suffix(path)
    with atomic_path(path) as temporary:
        if temporary.suffix == ".csv":
            to_table(result).to_csv(temporary, index=False, errors="surrogateescape")
        else:
            text = to_markdown(result)
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape")


def _row(part: str, name: str, figures: Metrics) -> dict[str, str | float]:
    row: dict[str, str | float] = {
        "part": part,
        "name": name,
        "n": figures.n,
        "fake_fraction": figures.fake_fraction,
    }
    for one in FIGURES:
        low, high = figures.intervals.get(one, (float("nan"), float("nan")))
        row |= {one: getattr(figures, one), f"{one}_low": low, f"{one}_high": high}
    return row


def _cell(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.3f}" if pd.isna(low) else f"{value:.3f} ({low:.3f} to {high:.3f})"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
