"""Write the metrics of each epoch of a training run, as a table and as a plot."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dfdetect.files import atomic_path


def write_history(checkpoint: Path, history: list[dict[str, Any]]) -> None:
    """Write the table `NAME.history.csv` and the plots `NAME.history.png`.

    Args:
        checkpoint: The path `NAME.safetensors` of the checkpoint, in whose folder the files are
            written.
        history: For each epoch, a dictionary from the names of metrics to their values. The first
            entry of each dictionary, such as the number of the epoch, is the position on the
            horizontal axis of the plots.
    """
    table = pd.DataFrame(history)
    with atomic_path(checkpoint.with_suffix(".history.csv")) as temporary:
        table.to_csv(temporary, index=False)
    figure = draw_history(table, checkpoint.stem)
    with atomic_path(checkpoint.with_suffix(".history.png")) as temporary:
        figure.savefig(temporary, format="png")


def draw_history(table: pd.DataFrame, name: str) -> Figure:
    """Return a figure with a plot of the losses and a plot of the other metrics.

    Args:
        table: The metrics, one row for each epoch. The first column is the horizontal axis.
        name: Name of the model, for the title.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    losses, ranks = figure.subplots(1, 2)
    over = table.columns[0]
    shown = {
        losses: ("train_loss", "choosing_loss", "log_loss", "sources_log_loss"),
        ranks: (
            "auc",
            "balanced_accuracy",
            "sources_auc",
            "sources_found_rate",
            "sources_false_alarm_rate",
        ),
    }
    for axes, names in shown.items():
        for metric in names:
            if metric in table:
                label = metric.replace("_", " ")
                axes.plot(table[over], table[metric], marker=".", label=label)
        if over == "C":
            axes.set_xscale("log")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel(over)
        if axes.lines:  # below the plot, where the legend covers no line
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, fontsize="small")
    losses.axhline(0.693, color="grey", linestyle=":")
    ranks.axhline(0.5, color="grey", linestyle=":")
    figure.suptitle(f"{name}: held-out actors (dotted: a constant answer)")
    return figure
