"""Plots of the accuracy of a detector: ROC curve, reliability curve and histogram."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import RocCurveDisplay


def write_plots(folder: str | Path, labels: np.ndarray, probabilities: np.ndarray) -> None:
    """Write plots of the probabilities: `histogram.png`, `roc.png` and `reliability.png`.

    `roc.png` and `reliability.png` are written only if both classes occur in `labels`.

    Args:
        folder: Folder for the plots; it is created if it does not exist.
        labels: 1 for FAKE and 0 for REAL, shape (n,).
        probabilities: P(FAKE), shape (n,).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if 0 < labels.mean() < 1:
        figure, axes = _figure()
        RocCurveDisplay.from_predictions(labels, probabilities, ax=axes, plot_chance_level=True)
        figure.savefig(folder / "roc.png")
        figure, axes = _figure()
        CalibrationDisplay.from_predictions(labels, probabilities, n_bins=10, ax=axes)
        axes.set(xlabel="P(FAKE)", ylabel="share of FAKE")
        figure.savefig(folder / "reliability.png")
    figure, axes = _figure()
    classes = [probabilities[labels == 0], probabilities[labels == 1]]
    axes.hist(classes, np.linspace(0, 1, 21).tolist(), label=["REAL", "FAKE"])
    axes.set(xlabel="P(FAKE)", ylabel="number")
    axes.legend()
    figure.savefig(folder / "histogram.png")


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5, 5), layout="constrained")
    return figure, figure.subplots()
