"""EvaluationResult: holds the metrics that `evaluate` returns, and turns them into text or JSON."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dfdetect.evaluation.answers import Answers
from dfdetect.evaluation.metrics import Interval, Metrics, VotedMetrics

# The report lists single answers if there are at most this many.
MOST_ANSWERS = 50
# Width of a column of the report, in characters.
COLUMN = 24
# Title of each metric, and the metric's value for a detector that always gives the same answer: a
# number, the name of another metric with this value, or None if the value depends on the answer.
ROWS = {
    "auc": ("AUC", 0.5),
    "false_alarm_rate": ("false alarms (REAL above 0.5)", None),
    "found_rate": ("found (FAKE above 0.5)", None),
    "calibration_error": ("calibration error", None),
    "log_loss": ("log loss", "constant_log_loss"),
    "accuracy": ("accuracy", "constant_accuracy"),
    "best_accuracy": ("accuracy at the best threshold", "constant_accuracy"),
    "balanced_accuracy": ("balanced accuracy", 0.5),
    "average_precision": ("average precision", "fake_fraction"),
    "eer": ("equal error rate", 0.5),
    "tpr_at_1_fpr": ("found at 1 % false alarms", 0.0),
    "tpr_at_5_fpr": ("found at 5 % false alarms", 0.0),
}
SOURCE_COLUMNS = ("n", "fake_fraction", "auc", "false_alarm_rate", "found_rate", "log_loss")


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """How many REAL and how many FAKE items have a P(FAKE) above a threshold.

    The threshold belongs to the verdict `uncertain` or to the verdict `fake`. An item is a video,
    or a crop that belongs to no video.

    Attributes:
        threshold: The threshold that the detector's checkpoint has for the verdict, 0 to 1.
        false_alarms: Number of REAL items above the threshold.
        found: Number of FAKE items above the threshold.
        false_alarm_rate: Share of REAL items above the threshold; NaN if there are no REAL items.
        found_rate: Share of FAKE items above the threshold; NaN if there are no FAKE items.
    """

    threshold: float
    false_alarms: int
    found: int
    false_alarm_rate: float
    found_rate: float


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Metrics of a detector on labelled faces or videos.

    `str` returns a report for people, and `to_dict` returns the values for JSON.

    Attributes:
        answers: The score of each item: of each video, and of each crop that belongs to no video.
        metrics: Metrics of these scores, with intervals from a bootstrap over actors or videos.
        frame_level: Metrics of the scores of single crops. If no video has a face, there are no
            crops, and these are the metrics of the videos without their intervals.
        sources: Metrics of each known source (data set, camera or site), with intervals if the
            source has enough actors or videos.
        methods: Metrics of each known method that made fakes. These metrics are computed from the
            fakes of the method and from all REAL items of the same sources.
        auc_within_sources: Mean of the AUCs of the sources, weighted by their numbers of items. NaN
            if no source has both classes.
        each_source_one_vote: Metrics in which all sources have the same weight, with intervals from
            a bootstrap over sources; None if the items come from fewer than two known sources.
        operating_points: For each of the thresholds `uncertain` and `fake`, the numbers and shares
            of REAL and of FAKE items with a P(FAKE) above the threshold. Empty if the checkpoint
            has no thresholds.
        subgroups: A dictionary from the name of each subgroup to its metrics. The subgroups are
            small, dark, blurred and turned faces, and all other faces. Empty if no subgroups were
            requested.
        reweighted: Metrics to expect on data with the requested share of FAKE. None if no share was
            requested.

    Example:
        >>> result = evaluate("val.csv")
        >>> result.metrics.auc, result.metrics.intervals["auc"]
        (0.927, (0.904, 0.948))
        >>> print(result)
    """

    answers: Answers
    metrics: Metrics
    frame_level: Metrics
    sources: Mapping[str, Metrics]
    auc_within_sources: float
    each_source_one_vote: VotedMetrics | None = None
    operating_points: Mapping[str, OperatingPoint] = field(default_factory=dict)
    methods: Mapping[str, Metrics] = field(default_factory=dict)
    subgroups: Mapping[str, Metrics] = field(default_factory=dict)
    reweighted: Metrics | None = None

    @property
    def tracks(self) -> int:
        """Return the number of tracks (faces followed through a video) that were scored."""
        return sum(len(row.tracks) for row in self.answers.rows)

    @property
    def crops(self) -> int:
        """Return the number of crops of all tracks."""
        return sum(len(track) for row in self.answers.rows for track in row.tracks)

    @property
    def without_score(self) -> int:
        """Return the number of videos without a score, whose P(FAKE) is taken to be 0.5."""
        return sum(math.isnan(row.probability) for row in self.answers.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; values that cannot be computed are None.

        Returns:
            A dictionary with these entries:

            - the metrics of all items by name, and their `intervals`;
            - the counts `tracks`, `crops` and `without_score`;
            - `sources`: for each source, a dictionary of its metrics. The entry `label` of this
              dictionary has the numbers of REAL and of FAKE items of the source;
            - `answers`: a list with the name, label, source and probability of each answer;
            - the other attributes of the result by name.
        """
        labels = self.answers.texts("label")
        names = self.answers.texts("source")
        counts = {
            source: {
                label: int(((names == source) & (labels == label)).sum())
                for label in ("REAL", "FAKE")
            }
            for source in self.sources
        }
        values = {
            **self.metrics.to_dict(),
            "tracks": self.tracks,
            "crops": self.crops,
            "without_score": self.without_score,
            "frame_level": self.frame_level.to_dict(),
            "sources": {
                name: one.to_dict() | {"label": counts[name]} for name, one in self.sources.items()
            },
            "methods": {name: one.to_dict() for name, one in self.methods.items()},
            "auc_within_sources": self.auc_within_sources,
            "operating_points": {name: vars(one) for name, one in self.operating_points.items()},
            "answers": [
                {
                    "name": row.name,
                    "label": row.label,
                    "source": row.source,
                    "probability": row.probability,
                }
                for row in self.answers.rows
            ],
        }
        if self.each_source_one_vote is not None:
            values["each_source_one_vote"] = self.each_source_one_vote.to_dict()
        if self.subgroups:
            values["subgroups"] = {name: one.to_dict() for name, one in self.subgroups.items()}
        if self.reweighted is not None:
            values["reweighted"] = self.reweighted.to_dict()
        return without_nan(values)

    def __str__(self) -> str:
        parts = [self._head(), self._main_table()]
        if self.each_source_one_vote is not None:
            parts.append(_kinds(self.each_source_one_vote))
        parts.append(self._operating_points())
        if self.reweighted is not None:
            share = self.reweighted.fake_fraction
            parts.append(f"where {share:.2%} are FAKE:\n" + _figures(self.reweighted))
        parts += [_table(part) for part in (self.sources, self.methods, self.subgroups) if part]
        if self.sources and len(self.answers) <= MOST_ANSWERS:
            parts.append(self._answers())
        return "\n\n".join(parts)

    def _head(self) -> str:
        text = f"{self.metrics.n} videos or single crops, {self.metrics.fake_fraction:.1%} FAKE"
        text += f"; {self.tracks} tracks, {self.crops} crops"
        if self.without_score:
            text += f"; {self.without_score} without a score, taken to be 0.5"
        return text

    def _main_table(self) -> str:
        """Return a table of the metrics as text.

        The first column has the metrics of the items (videos, and crops that belong to no video).
        If the items come from several sources, the next column has the metrics in which all sources
        have the same weight. If videos have several crops, the next column has the metrics of
        single crops. For comparison, the last column has the metrics of a detector that gives every
        item the same probability; it is empty if the data has no such metric, for example because
        there are no FAKE items.
        """
        columns: dict[str, Metrics | VotedMetrics] = {"videos or single crops": self.metrics}
        if self.each_source_one_vote is not None:
            columns["each source one vote"] = self.each_source_one_vote
        if self.crops not in (0, self.metrics.n):
            columns["each crop by itself"] = self.frame_level
        width = max(len(title) for title, _ in ROWS.values())
        lines = [
            " " * width + "".join(f"  {name:{COLUMN}}" for name in columns) + "  constant answer"
        ]
        for name, (title, constant) in ROWS.items():
            cells = [_cell(one, name) for one in columns.values()]
            if isinstance(constant, str):
                constant = getattr(self.metrics, constant)
            unknown = constant is None or math.isnan(getattr(self.metrics, name))
            last = "" if unknown else f"{constant:.3f}"
            lines.append(
                f"{title:{width}}" + "".join(f"  {one:{COLUMN}}" for one in cells) + f"  {last}"
            )
        return "\n".join(line.rstrip() for line in lines)

    def _operating_points(self) -> str:
        """Return a text with one line for each of the thresholds `uncertain` and `fake`.

        Each line says how many of the REAL items and how many of the FAKE items have a P(FAKE)
        above the threshold.
        """
        fake = int(self.answers.labels.sum())
        lines = [
            f"above {one.threshold:.3f} ({name}): "
            f"{_of(one.false_alarms, len(self.answers) - fake)} REAL, {_of(one.found, fake)} FAKE"
            for name, one in self.operating_points.items()
        ]
        return "\n".join(lines) or "the checkpoint holds no thresholds of verdicts"

    def _answers(self) -> str:
        table = self.answers.table()[["name", "label", "source", "probability"]]
        table = table.sort_values(["source", "label", "probability"])
        return table.to_string(float_format="{:.3f}".format, na_rep="", index=False)


def _cell(figures: Metrics | VotedMetrics, name: str) -> str:
    """Return the text of a metric with its interval, or an empty text if the metric is NaN."""
    value = getattr(figures, name, math.nan)
    return _with_interval(value, figures.intervals.get(name))


def _with_interval(value: float, interval: Interval | None) -> str:
    if math.isnan(value):
        return ""
    edges = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    return f"{value:.3f}{edges}"


def _kinds(votes: VotedMetrics) -> str:
    """Return a text with the share of detected fakes, one line for each kind of fake.

    A pair is a REAL and a FAKE item of one scene. If there are pairs, a last line gives the share
    of pairs whose FAKE item has the higher probability.
    """
    rows = {
        f"found, {kind}": (value, f"found_{kind}") for kind, value in votes.found_by_kind.items()
    }
    if votes.pairs:
        rows[f"{votes.pairs} scenes: FAKE above REAL"] = votes.pairs_in_order, "pairs_in_order"
    lines = [
        f"each source one vote ({votes.real_sources} with REAL, {votes.fake_sources} with FAKE; "
        "intervals over sources, 95 %)"
    ]
    lines += [
        f"{title:32}{_with_interval(value, votes.intervals.get(name))}"
        for title, (value, name) in rows.items()
    ]
    return "\n".join(lines)


def _of(part: int, whole: int) -> str:
    return f"{part} of {whole}" + (f" ({part / whole:.1%})" if whole else "")


def _figures(figures: Metrics) -> str:
    width = max(len(title) for title, _ in ROWS.values())
    lines = [f"{title:{width}}  {_cell(figures, name)}" for name, (title, _) in ROWS.items()]
    lines.append(f"{'accuracy of a constant answer':{width}}  {figures.constant_accuracy:.3f}")
    return "\n".join(lines)


def _table(parts: Mapping[str, Metrics]) -> str:
    rows = {
        name: [getattr(one, column) for column in SOURCE_COLUMNS] for name, one in parts.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(SOURCE_COLUMNS))
    return table.to_string(float_format="{:.3f}".format, na_rep="")


def without_nan(value: Any) -> Any:
    """Return a copy of nested dictionaries and lists with None instead of NaN, which JSON lacks."""
    if isinstance(value, Mapping):
        return {name: without_nan(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
