"""Figures of labels and probabilities: log loss, AUC and their like, and their intervals."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score

from dfdetect.errors import ArgumentError

THRESHOLD = 0.5
CALIBRATION_BINS = 15
BOOTSTRAP_ROUNDS = 1000


def metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Score probabilities of FAKE against labels.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).

    Returns:
        `n`, `fake_fraction`, `log_loss` (nats), `auc` (NaN with one class), `accuracy` and
        `balanced_accuracy` at 0.5, `calibration_error` (expected, 15 equal bins), and two
        baselines: `constant_log_loss`, of always answering `fake_fraction`, and
        `constant_accuracy`, of always answering the commoner class.

    Example:
        >>> metrics(np.array([0, 1]), np.array([0.2, 0.8]))["log_loss"]
        0.2231...
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype=np.float64)
    answers = probabilities > THRESHOLD
    share = float(labels.mean())
    both = 0 < share < 1
    return {
        "n": len(labels),
        "fake_fraction": share,
        "log_loss": float(log_loss(labels, probabilities, labels=[0, 1])),
        "auc": float(roc_auc_score(labels, probabilities)) if both else float("nan"),
        "accuracy": float(accuracy_score(labels, answers)),
        "balanced_accuracy": (
            float(balanced_accuracy_score(labels, answers)) if both else float("nan")
        ),
        "calibration_error": calibration_error(labels, probabilities),
        "constant_log_loss": float(log_loss(labels, np.full(len(labels), share), labels=[0, 1])),
        "constant_accuracy": max(share, 1 - share),
    }


def auc_within(sources: dict[str, dict[str, float]]) -> float:
    """Mean AUC of sources, by their number of videos; those with one class do not count.

    Sources differ in camera and codec, and a detector's answers with them: an AUC over all of them
    together may say no more than that.

    Args:
        sources: What `metrics` gives for each source.

    Returns:
        0 to 1, or NaN where no source has both classes.

    Example:
        >>> auc_within({"a": {"n": 3, "auc": 1.0}, "b": {"n": 1, "auc": 0.5}})
        0.875
    """
    both = [scores for scores in sources.values() if not np.isnan(scores["auc"])]
    if not both:
        return float("nan")
    return float(np.average([one["auc"] for one in both], weights=[one["n"] for one in both]))


def reweighted_metrics(
    labels: np.ndarray, probabilities: np.ndarray, fake_share: float
) -> dict[str, float]:
    """What the figures would be where another share of the faces is FAKE.

    Each class is weighted to its share, and the probabilities, which hold where half are FAKE, are
    moved by the new prior (Saerens et al. 2002).

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,); both must occur.
        probabilities: P(FAKE) at even odds, strictly between 0 and 1, shape (n,).
        fake_share: Between 0 and 1.

    Raises:
        ArgumentError: Only one class, or a share out of range.

    Example:
        >>> reweighted_metrics(np.array([0, 1]), np.array([0.6, 0.6]), 0.8)["constant_accuracy"]
        0.8
    """
    if not 0 < fake_share < 1 or len(np.unique(labels)) < 2:
        raise ArgumentError(f"needs both classes and a share between 0 and 1, not {fake_share}")
    share = np.where(labels == 1, fake_share, 1 - fake_share)
    weights = share / np.bincount(labels)[labels]
    fake, real = probabilities * fake_share, (1 - probabilities) * (1 - fake_share)
    moved = fake / (fake + real)
    constant = np.full(len(labels), fake_share)
    return {
        "fake_fraction": fake_share,
        "accuracy": float(accuracy_score(labels, moved > THRESHOLD, sample_weight=weights)),
        "constant_accuracy": max(fake_share, 1 - fake_share),
        "log_loss": float(log_loss(labels, moved, sample_weight=weights, labels=[0, 1])),
        "constant_log_loss": float(log_loss(labels, constant, sample_weight=weights)),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Expected calibration error (Naeini et al. 2015) over equal-width bins of P(FAKE), 0 to 1."""
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weights=labels - probabilities)
    return float(np.abs(gaps).sum() / len(labels))


def bootstrap_intervals(
    labels: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    rounds: int = BOOTSTRAP_ROUNDS,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % intervals of log loss, AUC and balanced accuracy, drawing whole groups (Efron 1979).

    Crops of one actor err together, so actors (or videos) are drawn with replacement, not crops.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE), shape (n,).
        groups: The actor or video of each, shape (n,).
        rounds: Number of samples drawn; those with one class only are left out.
        seed: Of the drawing.

    Returns:
        Lower and upper edge by name; empty where every sample has one class only.
    """
    measures: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
        "log_loss": lambda y, p: log_loss(y, p, labels=[0, 1]),
        "auc": roc_auc_score,
        "balanced_accuracy": lambda y, p: balanced_accuracy_score(y, p > THRESHOLD),
    }
    names, codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    rows_of = [np.flatnonzero(codes == code) for code in range(len(names))]
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        sample = generator.integers(len(rows_of), size=len(rows_of))
        rows = np.concatenate([rows_of[group] for group in sample])
        if 0 < labels[rows].mean() < 1:
            for name, measure in measures.items():
                drawn[name].append(measure(labels[rows], probabilities[rows]))
    return {
        name: tuple(float(edge) for edge in np.percentile(values, (2.5, 97.5)))
        for name, values in drawn.items()
        if values
    }


def vote_weights(labels: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Weights by which each class counts one half and, within a class, each source the same.

    Sources are very unequal in size; without such weights the largest would decide.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        sources: Name of the source of each, shape (n,).

    Returns:
        float64 of shape (n,), summing to 1. A single class counts as a whole.

    Example:
        >>> vote_weights(np.array([0, 0, 0, 1]), np.array(["a", "a", "b", "a"]))
        array([0.125, 0.125, 0.25 , 0.5  ])
    """
    labels = np.asarray(labels)
    keys = np.char.add(labels.astype(str), np.char.add(":", np.asarray(sources).astype(str)))
    _, codes, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    weights = 1.0 / sizes[codes]
    for label in (0, 1):
        weights[labels == label] /= max(1e-300, weights[labels == label].sum())
    return weights / weights.sum()


def voted_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    sources: np.ndarray,
    kinds: np.ndarray | None = None,
    scenes: np.ndarray | None = None,
) -> dict[str, float]:
    """Score probabilities of FAKE where each source has one vote, as in `vote_weights`.

    Args:
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE) strictly between 0 and 1, shape (n,).
        sources: Name of the source of each, shape (n,).
        kinds: The kind of each fake (swap, lipsync...), empty where it is not known.
        scenes: Equal for videos of one scene, REAL and FAKE; empty where there are no others.

    Returns:
        `real_sources` and `fake_sources`, their numbers; `log_loss`; `auc`; `false_alarm_rate` and
        `found_rate`, the shares of REAL and of FAKE above 0.5; `balanced_accuracy`, which is 0.5
        for a constant answer; `found_KIND` for each kind; `pairs`, the number of scenes that have
        both classes; and `pairs_in_order`, in what share of the comparisons within these FAKE has
        the higher probability, each scene one vote. What cannot be said is NaN.

    Example:
        >>> voted_metrics(np.array([0, 1]), np.array([0.2, 0.8]), np.array(["a", "b"]))["auc"]
        1.0
    """
    return SourceVotes(labels, probabilities, sources, kinds, scenes).metrics()


class SourceVotes:
    """Labels and probabilities of FAKE, of which each source has one vote.

    Args:
        labels: As in `voted_metrics`, like all that follows.
        probabilities: The same.
        sources: The same.
        kinds: The same.
        scenes: The same.

    Example:
        >>> votes = SourceVotes(labels, probabilities, sources)
        >>> votes.metrics()["auc"], votes.intervals()["auc"]
        (0.81, (0.70, 0.90))
    """

    def __init__(
        self,
        labels: np.ndarray,
        probabilities: np.ndarray,
        sources: np.ndarray,
        kinds: np.ndarray | None = None,
        scenes: np.ndarray | None = None,
    ):
        self.labels = np.asarray(labels)
        self.probabilities = np.asarray(probabilities, dtype=np.float64)
        self.names, self.source_of = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
        real, fake = self.labels == 0, self.labels == 1
        self.parts = {"false_alarm_rate": real, "found_rate": fake}
        if kinds is not None:
            for kind in np.unique(kinds[fake & (kinds != "")]).tolist():
                self.parts[f"found_{kind}"] = fake & (kinds == kind)
        # Within each part, what one crop or video is of its source.
        self.shares = {name: self._share_of_source(rows) for name, rows in self.parts.items()}
        self.orders = None
        if scenes is not None:
            first = {scene: row for row, scene in reversed(list(enumerate(scenes.tolist())))}
            orders = _orders(self.labels, self.probabilities, scenes)
            self.orders = np.array(list(orders.values()), dtype=np.float64)
            self.scene_sources = self.source_of[[first[scene] for scene in orders]]

    def metrics(self, times: np.ndarray | None = None) -> dict[str, float]:
        """The figures that `voted_metrics` names.

        Args:
            times: How many votes each source has, in the order of `names`; None for one each.
        """
        times = np.ones(len(self.names)) if times is None else times
        rates = {name: self._rate(name, times) for name in self.parts}
        real, fake = (rates[name] for name in ("false_alarm_rate", "found_rate"))
        scores = {
            "real_sources": self._sources_of("false_alarm_rate"),
            "fake_sources": self._sources_of("found_rate"),
            **self._figures(times),
            "false_alarm_rate": real,
            "found_rate": fake,
            "balanced_accuracy": (1 - real + fake) / 2,
            **rates,
        }
        if self.orders is not None:
            scores["pairs"] = len(self.orders)
            scores["pairs_in_order"] = _average(self.orders, times[self.scene_sources])
        return scores

    def intervals(
        self, rounds: int = BOOTSTRAP_ROUNDS, seed: int = 0
    ) -> dict[str, tuple[float, float]]:
        """95 % intervals of the figures, drawing whole sources with replacement (Efron 1979).

        Args:
            rounds: Number of samples drawn; one that lacks what a figure needs does not count.
            seed: Of the drawing.

        Returns:
            Lower and upper edge by name; without those that no sample gives.
        """
        generator = np.random.default_rng(seed)
        count = len(self.names)
        drawn = pd.DataFrame(
            self.metrics(np.bincount(generator.integers(count, size=count), minlength=count))
            for _ in range(rounds)
        ).drop(columns=["real_sources", "fake_sources", "pairs"], errors="ignore")
        edges = drawn.quantile([0.025, 0.975]).dropna(axis="columns")
        return {name: (float(low), float(high)) for name, (low, high) in edges.items()}

    def _share_of_source(self, rows: np.ndarray) -> np.ndarray:
        """What each row is of its source's part: 1 / size, 0 outside the part."""
        sizes = np.bincount(self.source_of[rows], minlength=len(self.names))
        return rows / np.maximum(sizes, 1)[self.source_of]

    def _sources_of(self, name: str) -> int:
        return len(np.unique(self.source_of[self.parts[name]]))

    def _rate(self, name: str, times: np.ndarray) -> float:
        above = self.probabilities > THRESHOLD
        return _average(above, self.shares[name] * times[self.source_of])

    def _figures(self, times: np.ndarray) -> dict[str, float]:
        """Log loss and AUC, in which each class counts one half."""
        classes = [self.shares[name] * times[self.source_of] for name in list(self.parts)[:2]]
        present = [weights / weights.sum() for weights in classes if weights.any()]
        weights = np.sum(present, axis=0) / len(present)
        auc = float("nan")
        if len(present) == 2:
            auc = float(roc_auc_score(self.labels, self.probabilities, sample_weight=weights))
        return {"log_loss": weighted_log_loss(self.labels, self.probabilities, weights), "auc": auc}


def _average(values: np.ndarray, weights: np.ndarray) -> float:
    return float(np.average(values, weights=weights)) if weights.any() else float("nan")


def weighted_log_loss(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> float:
    """Log loss in nats, of weights as `vote_weights` gives them."""
    return float(log_loss(labels, probabilities, sample_weight=weights, labels=[0, 1]))


def _orders(labels: np.ndarray, probabilities: np.ndarray, scenes: np.ndarray) -> dict[str, float]:
    """For each scene of both classes, in what share of its pairs FAKE is above REAL."""
    orders = {}
    for scene in np.unique(scenes[scenes != ""]).tolist():
        rows = scenes == scene
        real, fake = (probabilities[rows & (labels == label)] for label in (0, 1))
        if len(real) and len(fake):
            orders[scene] = float((fake[:, None] > real[None, :]).mean())
    return orders
