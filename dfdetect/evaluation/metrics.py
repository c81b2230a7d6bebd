"""Metrics that compare probabilities with labels, such as the AUC, and their 95 % intervals."""

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
# The false alarm rates of `tpr_at_1_fpr` and `tpr_at_5_fpr`. Sums of weights are rounded, so that a
# rate of exactly 1 % may be slightly above 0.01.
MOST_FPR = (0.01 + 1e-9, 0.05 + 1e-9)
# Metrics for which `metrics` gives no intervals. The first four say nothing about the accuracy of a
# detector. The last two are nearly always higher in the draws of a bootstrap than in the data.
WITHOUT_INTERVALS = (
    *("fake_fraction", "constant_log_loss", "constant_accuracy", "best_threshold"),
    *("calibration_error", "best_accuracy"),
)

# Lower and upper end of a 95 % interval.
Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics that compare probabilities of FAKE with labels.

    Metrics that need both classes are NaN if all labels are the same.

    Attributes:
        n: Number of items (videos or crops).
        fake_fraction: Share of FAKE items.
        auc: Area under the ROC curve.
        false_alarm_rate: Share of REAL items with a probability above 0.5.
        found_rate: Share of FAKE items with a probability above 0.5.
        calibration_error: Expected calibration error (Naeini et al. 2015), with 15 bins of equal
            width.
        log_loss: Mean negative log likelihood, in nats.
        constant_log_loss: The log loss if every item had the probability `fake_fraction`.
        accuracy: Accuracy at the threshold 0.5.
        best_accuracy: Accuracy at `best_threshold`. This threshold was chosen on the same items.
            Accuracies on other items are usually lower.
        best_threshold: The threshold with the highest accuracy. Items at or above it count as FAKE.
        constant_accuracy: The accuracy if every item were assigned to the more frequent class.
        balanced_accuracy: Mean of the accuracies of REAL and of FAKE. If all probabilities are
            equal, it is 0.5.
        average_precision: Area under the precision-recall curve. If all probabilities are equal, it
            is `fake_fraction`.
        eer: Equal error rate: the error rate at the threshold where REAL and FAKE have the same
            error rate.
        tpr_at_1_fpr: Share of FAKE items that are found at the lowest threshold that calls at most
            1 % of REAL items FAKE.
        tpr_at_5_fpr: The same for at most 5 % of REAL items.
        intervals: 95 % intervals, by the name of the metric. Empty if no intervals were computed.
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
        """Return a dictionary of the metrics by name, with `intervals` if there are any."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        intervals = values.pop("intervals")
        return values | ({"intervals": dict(intervals)} if intervals else {})


@dataclass(frozen=True, kw_only=True)
class VotedMetrics:
    """Metrics in which large sources do not dominate, because each source has one vote.

    REAL and FAKE have the same total weight. Within a class, all sources have the same total
    weight, whatever their numbers of items.

    A source is the data set, camera or site that an item (a video or a crop) comes from. A pair
    consists of a REAL and a FAKE item of the same scene, such as a video and a fake made from it.

    Attributes:
        real_sources: Number of sources with REAL items.
        fake_sources: Number of sources with FAKE items.
        log_loss: Weighted mean of the negative log likelihood, in nats.
        auc: Area under the weighted ROC curve.
        false_alarm_rate: Share of REAL items with a probability above 0.5, averaged over sources.
        found_rate: Share of FAKE items with a probability above 0.5, averaged over sources.
        balanced_accuracy: Mean of `found_rate` and 1 - `false_alarm_rate`.
        found_by_kind: `found_rate` of each kind of fake, by the name of the kind.
        pairs: Number of scenes that have at least one pair.
        pairs_in_order: Share of a scene's pairs in which the FAKE item has the higher probability,
            averaged over the scenes; NaN if no scene has pairs.
        intervals: Dictionary from the name of each metric to its 95 % interval, from a bootstrap
            that draws whole sources. Empty if no intervals were requested.
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
        """Return a dictionary of the metrics by name, with `intervals` if there are any.

        The attribute `found_by_kind` becomes one entry `found_KIND` for each kind of fake, such as
        `found_swap`. The value of this entry is the `found_rate` of the kind.
        """
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
    """Return metrics that compare probabilities of FAKE with labels.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, float, shape (n,).
        groups: Name of the actor or video of each item, shape (n,). If given, the result has
            intervals from a bootstrap (Efron 1979). The bootstrap draws whole groups, because the
            errors on the crops of one actor are not independent.

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
        for name in WITHOUT_INTERVALS:
            intervals.pop(name, None)
    return Metrics(n=len(labels), intervals=intervals, **figures)


def reweighted_metrics(labels: np.ndarray, probabilities: np.ndarray, fake_share: float) -> Metrics:
    """Return the metrics to expect on data with a given share of FAKE items.

    The FAKE items get the share `fake_share` of the total weight. The probabilities are corrected
    for this share (Saerens et al. 2002).

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,); both must occur.
        probabilities: P(FAKE) under the assumption that half of the items are FAKE, strictly
            between 0 and 1, shape (n,).
        fake_share: The new share of FAKE items, strictly between 0 and 1.

    Raises:
        ArgumentError: Only one class occurs, or `fake_share` is out of range.

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
    """Return the weighted mean of the AUCs of all sources.

    The weight of a source is its number of items. Sources with only one class are left out.

    Unlike the AUC of all items together, this mean does not reward a detector that gives higher
    scores to the sources with many fakes.

    Args:
        sources: The metrics of each source, by its name.

    Returns:
        The mean AUC, 0 to 1, or NaN if no source has both classes.

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
    """Return the expected calibration error (Naeini et al. 2015), 0 to 1.

    The probabilities are divided into 15 bins of equal width. `weights` has the weight of each
    item; None means equal weights.
    """
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
    """Return 95 % intervals of metrics, by a bootstrap that draws whole groups (Efron 1979).

    A group is a set of items that belong together, such as all crops of one actor. Each draw picks
    `count` groups at random, with replacement.

    Args:
        measure: Function that returns the metrics of one draw by name. The function takes an int
            array of shape (count,), which says how often the draw picked each group.
        count: Number of groups.
        rounds: Number of draws.
        seed: Seed of the random generator.

    Returns:
        Lower and upper end of each interval, by the name of the metric. Draws in which a metric is
        NaN do not count for its interval. A metric that is NaN in every draw has no interval.
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
    """Draw groups of items many times, and return the metrics of each draw.

    A group is a set of items that belong together, such as all crops of one actor. Each draw picks
    `count` groups at random, with replacement.

    Args:
        measure: Function that returns the metrics of one draw by name. The function takes an int
            array of shape (count,), which says how often the draw picked each group.
        count: Number of groups.
        rounds: Number of draws.
        seed: Seed of the random generator.

    Returns:
        A table with one row per draw and one column per metric.
    """
    generator = np.random.default_rng(seed)
    return pd.DataFrame(
        measure(np.bincount(generator.integers(count, size=count), minlength=count))
        for _ in range(rounds)
    )


def figures_of(
    labels: np.ndarray, probabilities: np.ndarray
) -> Callable[[np.ndarray], dict[str, float]]:
    """Return a function that computes the metrics of weighted items (videos or crops).

    The returned function takes the weight of each item, float of shape (n,), and returns a
    dictionary of metrics by name.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).
    """
    return partial(_figures, _Curve(labels, probabilities))


def vote_weights(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return a weight for each item, so that large sources do not dominate.

    Both classes have the same total weight. Within a class, all sources have the same total weight,
    whatever their numbers of items.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        sources: Name of the source of each item, shape (n,).

    Returns:
        Weights of the items, float64 of shape (n,), whose sum is 1.

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
    """Return metrics in which all sources have the same weight, as in `vote_weights`.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).
        sources: Name of the source of each item, shape (n,).
        kinds: Kind of fake (swap, lipsync...) of each item, empty if it is unknown; shape (n,).
            None if all kinds are unknown.
        scenes: Name of the scene that each item shows, empty if it is unknown; shape (n,). None if
            all scenes are unknown. `pairs_in_order` needs scenes with REAL and FAKE items.
        intervals: Also compute intervals, by a bootstrap that draws whole sources.

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
    both = real.any() and fake.any()
    above = probabilities > THRESHOLD
    orders, scene_sources = _orders(labels, probabilities, scenes, source_of)
    curve = _Curve(labels, probabilities)

    def rate(rows: np.ndarray, times: np.ndarray) -> float:
        return _average(above[rows], _votes(labels[rows], source_of[rows], times))

    def measure(times: np.ndarray) -> dict[str, float]:
        weights = _votes(labels, source_of, times)
        false_alarms, found = rate(real, times), rate(fake, times)
        # A draw of one class says nothing about a loss in which both classes count equally.
        one_class = both and not (weights[real].any() and weights[fake].any())
        return {
            "log_loss": NAN if one_class else weighted_log_loss(labels, probabilities, weights),
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
    """Return the weighted mean of the log losses of items, in nats.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE), shape (n,).
        weights: Weight of each item, shape (n,).
    """
    certainty = np.where(labels == 1, probabilities, 1 - probabilities)
    smallest = np.finfo(np.float64).eps
    return float(np.average(-np.log(np.clip(certainty, smallest, 1)), weights=weights))


class _Curve:
    """Computes the ROC curve of a set of items for different weights of the items.

    A bootstrap needs the curves for many different weights. To save time, the items are sorted by
    probability only once.
    """

    def __init__(self, labels: np.ndarray, probabilities: np.ndarray):
        self.labels = np.asarray(labels)
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.order = np.argsort(-self.probabilities, kind="stable")
        steps = np.diff(self.probabilities[self.order])
        # For each probability, the position in `order` of the last item with this probability.
        self.ends = np.append(np.flatnonzero(steps), len(self.labels) - 1)

    def figures(self, weights: np.ndarray) -> dict[str, float]:
        """Return the metrics that need the error rates at all thresholds, such as the AUC.

        If the weights of all REAL items or of all FAKE items are 0, these metrics are NaN.

        Args:
            weights: Weight of each item, shape (n,).
        """
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
        # If only items without weight exceed a threshold, `tiny` prevents a division by zero.
        precision = found / np.maximum(found + alarms, np.finfo(np.float64).tiny)
        right = np.append(0, found - alarms) + alarms[-1]
        best = int(right.argmax())
        # Position 0 stands for a threshold above all probabilities.
        threshold = self.probabilities[self.order][self.ends[best - 1]] if best else 1.0
        values = (
            np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2),
            np.sum(np.diff(tpr) * precision),
            # The error rates of REAL and of FAKE are equal somewhere between two thresholds. The
            # error rate at this place is interpolated.
            np.interp(0, fpr - (1 - tpr), fpr),
            *(tpr[np.searchsorted(fpr, most, side="right") - 1] for most in MOST_FPR),
            right[best] / (found[-1] + alarms[-1]),
            threshold,
        )
        return dict(zip(names, map(float, values), strict=True))


def _figures(curve: _Curve, weights: np.ndarray) -> dict[str, float]:
    """Return weighted metrics: a dictionary whose keys are names of attributes of `Metrics`."""
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
    """Return the weight of each item in one draw of a bootstrap, by the rule of `vote_weights`.

    The bootstrap draws whole sources. A source that was drawn twice counts as two sources.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        source_of: Index of each item's source in `times`, shape (n,).
        times: Number of times that the draw picked each source, shape (sources,).
    """
    _, own, sizes = np.unique(2 * source_of + labels, return_inverse=True, return_counts=True)
    weights = times[source_of] / sizes[own]
    totals = np.bincount(labels, weights, minlength=2)
    if not totals.any():
        return weights
    return weights / np.where(totals > 0, totals, 1)[labels] / (totals > 0).sum()


def _orders(
    labels: np.ndarray, probabilities: np.ndarray, scenes: np.ndarray, source_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return how well the probabilities rank the pairs of each scene.

    A pair is one REAL and one FAKE item of the same scene. The pair is in order if the FAKE item
    has the higher probability. `source_of` has the index of each item's source.

    Returns:
        Two arrays with an entry for each scene that has pairs. The first array has the share of the
        scene's pairs that are in order. The second array has the index of the scene's source.
    """
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
