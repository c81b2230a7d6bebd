import pytest

from dfdetect import OperatingPoints, TrackResult
from dfdetect.reporting.charts import HEIGHT, curve_chart

BOX = (0.0, 0.0, 9.0, 9.0)
TRACK = TrackResult(0.6, [0.0, 1.0], [BOX] * 2, [0.4, 0.8])


@pytest.mark.parametrize("value", [0.6, 0.8])
def test_curve_chart_names_the_thresholds_that_it_draws(value):
    chart = curve_chart(TRACK, OperatingPoints(uncertain=0.6, fake=0.8))
    assert f'd="M0,{HEIGHT * (1 - value):.1f}H' in chart
    assert ">fake</text>" in chart
    assert ">uncertain</text>" in chart
    assert "the dashed lines are the thresholds" in chart


def test_curve_chart_draws_no_line_without_thresholds():
    chart = curve_chart(TRACK, None)
    assert 'class="line"' not in chart
    assert "dashed" not in chart


def test_curve_chart_of_one_frame_is_empty():
    assert curve_chart(TrackResult(0.6, [0.0], [BOX], [0.6]), None) == ""
