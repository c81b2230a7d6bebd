import io

import pandas as pd
import pytest

from dfdetect.training.history import draw_history

NAMES = ("train_loss", "choosing_loss", "log_loss", "sources_log_loss")
NAMES += ("auc", "balanced_accuracy", "sources_auc", "sources_found_rate")


@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_draw_history_marks_whole_epochs_and_covers_no_line(epochs):
    rows = [{"epoch": epoch + 1, **dict.fromkeys(NAMES, 0.5)} for epoch in range(epochs)]
    figure = draw_history(pd.DataFrame(rows), "mine")
    figure.savefig(io.BytesIO(), format="png")
    page = figure.bbox
    for axes in figure.axes:
        assert axes.get_xlabel() == "epoch"
        low, high = axes.get_xlim()
        shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)
        legend = axes.get_legend().get_window_extent()
        assert not legend.overlaps(axes.get_window_extent())
        assert page.x0 <= legend.x0 < legend.x1 <= page.x1
        assert page.y0 <= legend.y0


def test_draw_history_of_a_linear_model_has_a_logarithmic_axis():
    figure = draw_history(pd.DataFrame({"C": [0.01, 0.1], "auc": [0.6, 0.7]}), "mine")
    assert {axes.get_xscale() for axes in figure.axes} == {"log"}
