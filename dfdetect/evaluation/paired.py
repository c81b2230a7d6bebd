"""Compare two detectors on the same videos, by a paired bootstrap and by DeLong's test."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from dfdetect.checkpoints.weights import Weights
from dfdetect.detector import Detector
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.answers import Answers
from dfdetect.evaluation.evaluate import evaluate
from dfdetect.evaluation.metrics import Interval, bootstrap_draws, figures_of
from dfdetect.evaluation.result import ROWS, EvaluationResult, without_nan

COMPARED = (
    *("auc", "average_precision", "eer", "tpr_at_1_fpr", "tpr_at_5_fpr", "accuracy"),
    *("best_accuracy", "balanced_accuracy", "log_loss", "calibration_error"),
)
# Quantiles of the draws that are the ends of the 95 % interval.
TAILS = (0.025, 0.975)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference of a metric between two detectors, with a test of its significance.

    Attributes:
        first: The metric of the first detector.
        second: The metric of the second detector.
        difference: The second metric minus the first.
        interval: 95 % interval of the difference; None if it cannot be computed.
        p_value: Two-sided p-value: the probability that the metrics of two equally good detectors
            differ by at least this much. NaN if it cannot be computed.
    """

    first: float
    second: float
    difference: float
    interval: Interval | None
    p_value: float


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The results of two detectors on the same videos or crops, and how their metrics differ.

    `str` returns a report for people, and `to_dict` returns the values for JSON.

    Attributes:
        first: The result of the first detector.
        second: The result of the second detector.
        differences: The `Difference` of each metric, by the name of the metric. The differences are
            tested by a paired bootstrap, which draws whole actors or videos with replacement, and
            uses each draw for both detectors.
        delong: The difference of the AUCs, tested by DeLong's test. This test treats the scores of
            different items (videos or crops) as independent.
        groups: Number of actors or videos from which the bootstrap draws.
    """

    first: EvaluationResult
    second: EvaluationResult
    differences: Mapping[str, Difference]
    delong: Difference
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON; values that cannot be computed are None."""
        return without_nan(
            {
                "first": self.first.to_dict(),
                "second": self.second.to_dict(),
                "differences": {name: asdict(one) for name, one in self.differences.items()},
                "delong": asdict(self.delong),
                "groups": self.groups,
            }
        )

    def __str__(self) -> str:
        width = max(len(title) for title, _ in ROWS.values())
        lines = [
            f"{self.first.metrics.n} videos or single crops of {self.groups} actors or videos; "
            "95 % intervals and two-sided p-values",
            f"{'':{width}}  {'first':>7}  {'second':>7}  {'second - first':24}  p",
        ]
        rows = {ROWS[name][0]: one for name, one in self.differences.items()}
        rows["AUC, by DeLong's test"] = self.delong
        for title, one in rows.items():
            shown = "" if np.isnan(one.difference) else f"{one.difference:+.3f}"
            if one.interval is not None:
                shown += f" ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})"
            p_value = "" if np.isnan(one.p_value) else f"{one.p_value:.3f}"
            p_value = "< 0.001" if p_value == "0.000" else p_value
            lines.append(
                f"{title:{width}}  {one.first:7.3f}  {one.second:7.3f}  {shown:24}  {p_value}"
            )
        return "\n".join(line.rstrip() for line in lines)


def compare_detectors(
    sources: str | Path | Sequence[str | Path],
    detectors: tuple[Weights | Detector, Weights | Detector],
    **options: Any,
) -> PairedComparison:
    """Measure two detectors on the same data, and test whether their metrics differ.

    Args:
        sources: Face sets or a data set, as in `evaluate`.
        detectors: The two detectors. Each is a value for the argument `weights` of `evaluate`.
        options: Keyword arguments for `evaluate`, such as `split="test"` and `device="cpu"`.

    Raises:
        FileNotFoundError: A source or the weights do not exist.
        ArgumentError: `evaluate` does not accept the sources or the options.
        InputError: The labels of a source are missing or unusable.

    Example:
        >>> print(compare_detectors("val.csv", ("tf_efficientnet_lite0", "xception")))
    """
    first, second = (evaluate(sources, weights=weights, **options) for weights in detectors)
    return compare_results(first, second)


def compare_results(first: EvaluationResult, second: EvaluationResult) -> PairedComparison:
    """Compare the results of two detectors on the same data, and test whether their metrics differ.

    Raises:
        ArgumentError: The results have different videos or crops, or have them in different orders.

    Example:
        >>> both = evaluate("val.csv", weights="both.safetensors")
        >>> compare_results(evaluate("val.csv"), both).delong
        Difference(first=0.927, second=0.939, difference=0.012, interval=(0.008, 0.016), ...)
    """
    answers = first.answers
    _require_same(answers, second.answers)
    labels = answers.labels
    both = answers.probabilities, second.answers.probabilities
    names, group_of = np.unique(answers.texts("group"), return_inverse=True)
    return PairedComparison(
        first=first,
        second=second,
        differences=_bootstrap(labels, both, group_of, len(names)),
        delong=delong_test(labels, *both),
        groups=len(names),
    )


def delong_test(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> Difference:
    """Test the difference between the AUCs of two detectors on the same items.

    The test comes from DeLong, DeLong and Clarke-Pearson, "Comparing the Areas under Two or More
    Correlated Receiver Operating Characteristic Curves", Biometrics 1988. It is computed from the
    ranks of the scores, by the method of Sun and Xu, "Fast Implementation of DeLong's Algorithm",
    IEEE Signal Processing Letters 2014.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        first: P(FAKE) by the first detector, shape (n,).
        second: P(FAKE) by the second detector, shape (n,).

    Returns:
        The AUCs, their difference, the interval of the difference, and the p-value. If a class has
        fewer than two items, the interval is None and all other values are NaN.

    Example:
        >>> delong_test(labels, first, second).p_value
        0.021
    """
    fake = labels == 1
    fakes, reals = int(fake.sum()), int((~fake).sum())
    if min(fakes, reals) < 2:
        nan = float("nan")
        return Difference(first=nan, second=nan, difference=nan, interval=None, p_value=nan)
    # For each FAKE item, the share of REAL items with lower scores. For each REAL item, the share
    # of FAKE items with higher scores. An item with an equal score counts as one half.
    of_fakes, of_reals = [], []
    for values in (first, second):
        ranks = rankdata(values)
        of_fakes.append((ranks[fake] - rankdata(values[fake])) / reals)
        of_reals.append(1 - (ranks[~fake] - rankdata(values[~fake])) / fakes)
    areas = [float(one.mean()) for one in of_fakes]
    covariance = np.cov(of_fakes) / fakes + np.cov(of_reals) / reals
    difference = areas[1] - areas[0]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    deviation = float(np.sqrt(max(variance, 0.0)))
    reach = float(norm.ppf(TAILS[1])) * deviation
    chance = 2 * norm.sf(abs(difference) / deviation) if deviation > 0 else float(difference == 0)
    return Difference(
        first=areas[0],
        second=areas[1],
        difference=difference,
        interval=(difference - reach, difference + reach),
        p_value=float(chance),
    )


def _bootstrap(
    labels: np.ndarray,
    probabilities: tuple[np.ndarray, np.ndarray],
    group_of: np.ndarray,
    groups: int,
) -> dict[str, Difference]:
    """Return the difference of each metric between two detectors, tested by a paired bootstrap.

    The method comes from Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.
    """
    measures = [figures_of(labels, one) for one in probabilities]

    def differ(times: np.ndarray) -> dict[str, float]:
        first, second = (measure(times[group_of].astype(float)) for measure in measures)
        return {name: second[name] - first[name] for name in COMPARED}

    draws = bootstrap_draws(differ, groups)
    first, second = (measure(np.ones(len(labels))) for measure in measures)
    found = {}
    for name in COMPARED:
        drawn = draws[name].dropna()
        edges = drawn.quantile(list(TAILS))
        found[name] = Difference(
            first=first[name],
            second=second[name],
            difference=second[name] - first[name],
            interval=(float(edges.iloc[0]), float(edges.iloc[1])) if len(drawn) else None,
            p_value=_p_value(drawn.to_numpy()),
        )
    return found


def _p_value(draws: np.ndarray) -> float:
    """Return the two-sided p-value of a difference between two detectors.

    `draws` holds the difference in each draw of a bootstrap. The share of differences <= 0 and the
    share of differences >= 0 are computed. The p-value is twice the smaller share, at most 1. To
    keep the p-value above 0, each share is computed as if one more draw belonged to it.
    """
    if not len(draws):
        return float("nan")
    rarer = min((draws <= 0).sum(), (draws >= 0).sum())
    return float(min(1.0, 2 * (rarer + 1) / (len(draws) + 1)))


def _require_same(first: Answers, second: Answers) -> None:
    same = len(first) == len(second) and all(
        (first.texts(name) == second.texts(name)).all() for name in ("name", "label", "group")
    )
    if not same:
        raise ArgumentError(
            "the two results are not of the same videos; measure both detectors on the same data"
        )
