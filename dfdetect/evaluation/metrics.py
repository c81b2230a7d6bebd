"""Metrics of probabilities against labels: AUC, false alarms and others, with intervals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from dfdetect.errors import ArgumentError

THRESHOLD = 0.5
CALIBRATION_BINS = 15
BOOTSTRAP_ROUNDS = 1000
NAN = float("nan")

# Lower and upper edge.
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """How well probabilities of FAKE agree with labels; a figure that needs both classes is NaN.

    Attributes:
        n: Number of answers.
        fake_fraction: Share of FAKE.
        auc: Area under the ROC curve.
        false_alarm_rate: Share of REAL above 0.5.
        found_rate: Share of FAKE above 0.5.
        calibration_error: Expected calibration error (Naeini et al. 2015), 15 bins of equal width.
        log_loss: Mean negative log likelihood, in nats.
        constant_log_loss: The log loss of always answering `fake_fraction`.
        accuracy: Share of right answers at 0.5.
        best_accuracy: The same at the threshold that gives the most of them. It is chosen on these
            answers, so new ones will have less.
        best_threshold: That threshold: FAKE is what reaches it.
        constant_accuracy: The accuracy of always answering the commoner class.
        balanced_accuracy: Mean of the accuracies of REAL and of FAKE; 0.5 for a constant answer.
        average_precision: Area under the precision-recall curve; `fake_fraction` for a constant
            answer.
        eer: Equal error rate: the share of errors at the threshold at which REAL and FAKE have the
            same share of errors.
        tpr_at_1_fpr: Share of FAKE above the threshold that 1 % of REAL exceed.
        tpr_at_5_fpr: Share of FAKE above the threshold that 5 % of REAL exceed.
        intervals: 95 % intervals by name, if they were requested.
    """

    n: int
    fake_fraction: float
    auc: float
    false_alarm_rate: float
    found_rate: float
    calibration_error: float
    log_loss: float
    constant_log_loss: float
    accuracy: float
    best_accuracy: float
    best_threshold: float
    constant_accuracy: float
    balanced_accuracy: float
    average_precision: float
    eer: float
    tpr_at_1_fpr: float
    tpr_at_5_fpr: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, with `intervals` if there are any."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        intervals = values.pop("intervals")
        return values | ({"intervals": dict(intervals)} if intervals else {})


@dataclass(frozen=True, kw_only=True)
class VotedMetrics:
    """Metrics in which REAL and FAKE count one half each, and all sources of a class the same.

    Attributes:
        real_sources: Number of sources with REAL.
        fake_sources: Number of sources with FAKE.
        log_loss: As in `Metrics`, with these weights.
        auc: As in `Metrics`, with these weights.
        false_alarm_rate: Share of REAL above 0.5, averaged over the sources.
        found_rate: Share of FAKE above 0.5, averaged over the sources.
        balanced_accuracy: As in `Metrics`, with these weights.
        found_by_kind: `found_rate` of each kind of fake.
        pairs: Number of scenes that have both REAL and FAKE.
        pairs_in_order: Share of the pairs of a REAL and a FAKE of one scene in which the FAKE has
            the higher probability, averaged over the scenes.
        intervals: 95 % intervals over sources, by name, if they were requested.
    """

    real_sources: int
    fake_sources: int
    log_loss: float
    auc: float
    false_alarm_rate: float
    found_rate: float
    balanced_accuracy: float
    found_by_kind: Mapping[str, float]
    pairs: int
    pairs_in_order: float
    intervals: Mapping[str, Interval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics by name, with `found_KIND` for each kind, and `intervals` if any."""
        values: dict[str, Any] = {}
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "found_by_kind":
                values |= {f"found_{kind}": rate for kind, rate in value.items()}
            elif one.name != "intervals" or value:
                values[one.name] = value
        return values


def metrics(
    labels: np.ndarray, probabilities: np.ndarray, *, groups: np.ndarray | None = None
) -> Metrics:
    """Compare probabilities of FAKE with labels.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, float, shape (n,).
        groups: Name of the actor or video of each item, shape (n,). If given, the result has
            intervals by bootstrap (Efron 1979). Errors on crops of one actor are not independent;
            whole groups are therefore drawn.

    Example:
        >>> metrics(np.array([0, 1]), np.array([0.2, 0.8])).log_loss
        0.2231...
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    curve = _Curve(labels, probabilities)
    figures = _figures(curve, np.ones(len(labels)))
    intervals = {}
    if groups is not None:
        names, group_of = np.unique(np.asarray(groups).astype(str), return_inverse=True)
        intervals = bootstrap_intervals(
            lambda times: _figures(curve, times[group_of].astype(float)), len(names)
        )
        for name in ("fake_fraction", "constant_log_loss", "constant_accuracy", "best_threshold"):
            intervals.pop(name, None)
    return Metrics(n=len(labels), intervals=intervals, **figures)


def reweighted_metrics(labels: np.ndarray, probabilities: np.ndarray, fake_share: float) -> Metrics:
    """Return the metrics as they would be if another share of the items were FAKE.

    The items of each class are weighted to that share. The probabilities, which assume that half of
    the items are FAKE, are corrected for the new prior (Saerens et al. 2002).

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,); both must occur.
        probabilities: P(FAKE) if half are FAKE, strictly between 0 and 1, shape (n,).
        fake_share: The share of FAKE, strictly between 0 and 1.

    Raises:
        ArgumentError: Only one class occurs, or the share is out of range.

    Example:
        >>> reweighted_metrics(np.array([0, 1]), np.array([0.6, 0.6]), 0.8).constant_accuracy
        0.8
    """
    if not 0 < fake_share < 1 or len(np.unique(labels)) < 2:
        raise ArgumentError(f"needs both classes and a share between 0 and 1, not {fake_share}")
    share = np.where(labels == 1, fake_share, 1 - fake_share)
    weights = share / np.bincount(labels)[labels]
    fake, real = probabilities * fake_share, (1 - probabilities) * (1 - fake_share)
    figures = _figures(_Curve(labels, fake / (fake + real)), weights)
    return Metrics(n=len(labels), intervals={}, **figures)


def auc_within(sources: Mapping[str, Metrics]) -> float:
    """Return the mean of the AUCs of the sources, weighted by `n`.

    Sources differ in camera and codec, and the answers of a detector differ with them. The AUC over
    all sources together may only show this difference. Sources with one class do not count.

    Args:
        sources: The metrics of each source.

    Returns:
        0 to 1, or NaN if no source has both classes.

    Example:
        >>> auc_within({"page": metrics(labels, probabilities)})
        0.875
    """
    both = [one for one in sources.values() if not np.isnan(one.auc)]
    if not both:
        return NAN
    return float(np.average([one.auc for one in both], weights=[one.n for one in both]))


def calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return the expected calibration error (Naeini et al. 2015), 0 to 1, over 15 equal bins."""
    weights = np.ones(len(labels)) if weights is None else weights
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=weights * (labels - probabilities))
    return float(np.abs(gaps).sum() / weights.sum())


def bootstrap_intervals(
    measure: Callable[[np.ndarray], Mapping[str, float]],
    count: int,
    *,
    rounds: int = BOOTSTRAP_ROUNDS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95 % intervals of metrics, by drawing groups with replacement (Efron 1979).

    Args:
        measure: Takes the number of times that each group was drawn, int of shape (count,), and
            returns metrics by name. A NaN is left out of the interval.
        count: Number of groups.
        rounds: Number of draws.
        seed: Seed of the draws.

    Returns:
        Lower and upper edge by name, without metrics that are NaN in every draw.
    """
    drawn = bootstrap_draws(measure, count, rounds=rounds, seed=seed)
    edges = drawn.quantile([0.025, 0.975]).dropna(axis="columns")
    return {str(name): (float(low), float(high)) for name, (low, high) in edges.items()}


def bootstrap_draws(
    measure: Callable[[np.ndarray], Mapping[str, float]],
    count: int,
    *,
    rounds: int = BOOTSTRAP_ROUNDS,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the metrics of each draw, one row per draw; arguments as in `bootstrap_intervals`."""
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        measure(np.bincount(generator.integers(count, size=count), minlength=count))
        for _ in range(rounds)
    )


def figures_of(
    labels: np.ndarray, probabilities: np.ndarray
) -> Callable[[np.ndarray], dict[str, float]]:
    """Return a function that takes weights of shape (n,) and returns the metrics by name.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).
    """
    return partial(_figures, _Curve(labels, probabilities))


def vote_weights(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return weights that give each class half of the total, and each source an equal part of it.

    Sources are very unequal in size; without such weights the largest would decide.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        sources: Name of the source of each, shape (n,).

    Returns:
        float64 of shape (n,), summing to 1. A single class has all the weight.

    Example:
        >>> vote_weights(np.array([0, 0, 0, 1]), np.array(["a", "a", "b", "a"]))
        array([0.125, 0.125, 0.25 , 0.5  ])
    """
    names, source_of = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    return _votes(np.asarray(labels), source_of, np.ones(len(names)))


def voted_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    sources: np.ndarray,
    kinds: np.ndarray | None = None,
    scenes: np.ndarray | None = None,
    *,
    intervals: bool = False,
) -> VotedMetrics:
    """Compare probabilities of FAKE with labels so that all sources count the same.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).
        sources: Name of the source of each, shape (n,).
        kinds: The kind of each fake (swap, lipsync...), empty if it is unknown; shape (n,).
        scenes: Name of the scene of each, the same for REAL and FAKE of one scene, empty if it is
            unknown; shape (n,).
        intervals: Also compute intervals by bootstrap; whole sources are drawn.

    Example:
        >>> voted_metrics(np.array([0, 1]), np.array([0.2, 0.8]), np.array(["a", "b"])).auc
        1.0
    """
    labels, probabilities = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    names, source_of = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    nothing = np.full(len(labels), "")
    kinds = nothing if kinds is None else np.asarray(kinds, dtype=str)
    scenes = nothing if scenes is None else np.asarray(scenes, dtype=str)
    real, fake = labels == 0, labels == 1
    kind_rows = {kind: fake & (kinds == kind) for kind in np.unique(kinds[fake]).tolist() if kind}
    above = probabilities > THRESHOLD
    orders, scene_sources = _orders(labels, probabilities, scenes, source_of)
    curve = _Curve(labels, probabilities)

    def rate(rows: np.ndarray, times: np.ndarray) -> float:
        return _average(above[rows], _votes(labels[rows], source_of[rows], times))

    def measure(times: np.ndarray) -> dict[str, float]:
        weights = _votes(labels, source_of, times)
        false_alarms, found = rate(real, times), rate(fake, times)
        return {
            "log_loss": weighted_log_loss(labels, probabilities, weights),
            "auc": curve.figures(weights)["auc"],
            "false_alarm_rate": false_alarms,
            "found_rate": found,
            "balanced_accuracy": (1 - false_alarms + found) / 2,
            **{f"found_{kind}": rate(rows, times) for kind, rows in kind_rows.items()},
            "pairs_in_order": _average(orders, times[scene_sources]),
        }

    figures = measure(np.ones(len(names)))
    by_kind = {kind: figures.pop(f"found_{kind}") for kind in kind_rows}
    return VotedMetrics(
        real_sources=len(np.unique(source_of[real])),
        fake_sources=len(np.unique(source_of[fake])),
        found_by_kind=by_kind,
        pairs=len(orders),
        intervals=bootstrap_intervals(measure, len(names)) if intervals else {},
        **figures,
    )


def weighted_log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
    """Return the log loss in nats, weighted with the weights of `vote_weights`."""
    certainty = np.where(labels == 1, probabilities, 1 - probabilities)
    smallest = np.finfo(np.float64).eps
    return float(np.average(-np.log(np.clip(certainty, smallest, 1)), weights=weights))


class _Curve:
    """Labels and probabilities, sorted once: intervals need their ROC curve a thousand times."""

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray):
        self.labels = np.asarray(labels)
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.order = np.argsort(-self.probabilities, kind="stable")
        steps = np.diff(self.probabilities[self.order])
        # The last of those that have the same probability.
        self.ends = np.append(np.flatnonzero(steps), len(self.labels) - 1)

    def figures(self, weights: np.ndarray) -> dict[str, float]:
        """Return the figures over all thresholds; NaN if a class has no weight."""
        names = (
            *("auc", "average_precision", "eer", "tpr_at_1_fpr", "tpr_at_5_fpr"),
            *("best_accuracy", "best_threshold"),
        )
        fake = (self.labels == 1)[self.order]
        ordered = weights[self.order]
        found = np.cumsum(ordered * fake)[self.ends]
        alarms = np.cumsum(ordered * ~fake)[self.ends]
        if not (found[-1] > 0 and alarms[-1] > 0):
            return dict.fromkeys(names, NAN)
        tpr = np.append(0, found / found[-1])
        fpr = np.append(0, alarms / alarms[-1])
        # Thresholds that only rows without weight exceed have no precision, and no weight either.
        precision = found / np.maximum(found + alarms, np.finfo(np.float64).tiny)
        right = np.append(0, found - alarms) + alarms[-1]
        best = int(right.argmax())
        # The first threshold is above everything.
        threshold = self.probabilities[self.order][self.ends[best - 1]] if best else 1.0
        values = (
            np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2),
            np.sum(np.diff(tpr) * precision),
            # Where the rates of both errors cross, between two thresholds if need be.
            np.interp(0, fpr - (1 - tpr), fpr),
            *(tpr[np.searchsorted(fpr, rate, side="right") - 1] for rate in (0.01, 0.05)),
            right[best] / (found[-1] + alarms[-1]),
            threshold,
        )
        return dict(zip(names, map(float, values), strict=True))


def _figures(curve: _Curve, weights: np.ndarray) -> dict[str, float]:
    """Return all metrics of `Metrics`, with a weight for each row."""
    labels, probabilities = curve.labels, curve.probabilities
    real, fake = labels == 0, labels == 1
    above = probabilities > THRESHOLD
    share = float(np.average(labels, weights=weights))
    false_alarms = _average(above[real], weights[real])
    found = _average(above[fake], weights[fake])
    return {
        "fake_fraction": share,
        "false_alarm_rate": false_alarms,
        "found_rate": found,
        "calibration_error": calibration_error(labels, probabilities, weights),
        "log_loss": weighted_log_loss(labels, probabilities, weights),
        "constant_log_loss": weighted_log_loss(labels, np.full(len(labels), share), weights),
        "accuracy": float(np.average(above == fake, weights=weights)),
        "constant_accuracy": max(share, 1 - share),
        "balanced_accuracy": (1 - false_alarms + found) / 2,
        **curve.figures(weights),
    }


def _votes(labels: np.ndarray, source_of: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Return weights as `vote_weights` does, with each source repeated `times` times."""
    _, own, sizes = np.unique(2 * source_of + labels, return_inverse=True, return_counts=True)
    weights = times[source_of] / sizes[own]
    totals = np.bincount(labels, weights, minlength=2)
    if not totals.any():
        return weights
    return weights / np.where(totals > 0, totals, 1)[labels] / (totals > 0).sum()


def _orders(
    labels: np.ndarray, probabilities: np.ndarray, scenes: np.ndarray, source_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each scene with both classes, the share of pairs in order, and its source."""
    orders, sources = [], []
    for scene in np.unique(scenes[scenes != ""]):
        rows = scenes == scene
        real, fake = (probabilities[rows & (labels == label)] for label in (0, 1))
        if len(real) and len(fake):
            orders.append(float((fake[:, None] > real[None, :]).mean()))
            sources.append(source_of[rows][0])
    return np.array(orders, dtype=np.float64), np.array(sources, dtype=np.int64)


def _average(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(values, weights=weights)) if weights.any() else NAN
