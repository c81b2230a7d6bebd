"""Write the metrics of each epoch of a training run, as a table and as a plot."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

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
    figure = Figure(figsize=(8, 4))
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
        for name in names:
            if name in table:
                axes.plot(table[over], table[name], marker=".", label=name.replace("_", " "))
        axes.set(xlabel=over, xscale="log" if over == "C" else "linear")
        if axes.lines:
            axes.legend()
    losses.axhline(0.693, color="grey", linestyle=":")
    ranks.axhline(0.5, color="grey", linestyle=":")
    figure.suptitle(f"{checkpoint.stem}: held-out actors (dotted: a constant answer)")
    with atomic_path(checkpoint.with_suffix(".history.png")) as temporary:
        figure.savefig(temporary, format="png")
