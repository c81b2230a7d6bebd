"""Draw charts of results, as SVG inside HTML. The style sheet of the page sets the colours.

P(FAKE) is the detector's score, from 0 (REAL) to 1 (FAKE). A person is one face that was tracked
through a video.
"""

from collections.abc import Sequence

import numpy as np

from dfdetect.reporting.terminal import time_stamp
from dfdetect.results import OperatingPoints, TrackResult

# Number of bars in a histogram.
BINS = 20
# Sizes in units of the SVG: the width and the height of a curve or histogram, and the width of the
# space beside a curve in which the names of the thresholds are written.
WIDTH, HEIGHT, NAMES = 480, 110, 84


def curve_chart(track: TrackResult, thresholds: OperatingPoints | None) -> str:
    """Return a chart of one person's P(FAKE) over time, as HTML.

    If only one frame shows the person, an empty text is returned.

    Args:
        track: The result for the person.
        thresholds: The thresholds of the verdicts, or None. Each threshold is drawn as a line with
            its name.

    Example:
        >>> curve_chart(result.tracks[0], result.operating_points)
        '<figure class="chart"><svg viewBox=...
    """
    if len(track.times) < 2:
        return ""
    first, last = track.times[0], track.times[-1]
    length = max(last - first, 1e-9)
    points = [
        (WIDTH * (time - first) / length, HEIGHT * (1 - probability))
        for time, probability in zip(track.times, track.frame_probabilities, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    scale = "".join(_label(-6, HEIGHT * (1 - p), f"{p:g}", "end") for p in (0, 0.5, 1))
    ends = _label(0, HEIGHT + 14, time_stamp(first), "start")
    ends += _label(WIDTH, HEIGHT + 14, time_stamp(last), "end")
    lowest, highest = min(track.frame_probabilities), max(track.frame_probabilities)
    caption = "P(FAKE) of single frames over time"
    if thresholds is not None:
        caption += "; the dashed lines are the thresholds of the verdict on the whole video"
    return _drawing(
        f'{_thresholds(thresholds)}{scale}{ends}<polyline points="{line}"/>{dots}',
        f"P(FAKE) over time, from {time_stamp(first)} to {time_stamp(last)}, between {lowest:.2f} "
        f"and {highest:.2f}",
        caption,
        0 if thresholds is None else NAMES,
    )


def histogram_chart(probabilities: Sequence[float], points: OperatingPoints | None) -> str:
    """Return a chart of how many videos have which P(FAKE), as HTML.

    For fewer than two videos, an empty text is returned.

    Args:
        probabilities: P(FAKE) of each video.
        points: The thresholds of the verdicts, or None. Each threshold is drawn as a line.
    """
    if len(probabilities) < 2:
        return ""
    counts, edges = np.histogram(probabilities, BINS, (0, 1))
    step, highest = WIDTH / BINS, counts.max()
    bars = "".join(
        f'<rect x="{edge * WIDTH + 1:.1f}" y="{HEIGHT * (1 - count / highest):.1f}" '
        f'width="{step - 2:.1f}" height="{HEIGHT * count / highest:.1f}"/>'
        for count, edge in zip(counts, edges[:-1], strict=True)
    )
    scale = "".join(_label(WIDTH * p, HEIGHT + 14, f"{p:g}", "middle") for p in (0, 0.5, 1))
    thresholds = () if points is None else (points.uncertain, points.fake)
    lines = "".join(f'<path class="line" d="M{WIDTH * one:.1f},0V{HEIGHT}"/>' for one in thresholds)
    text = f"How many files got which P(FAKE); the highest bar stands for {highest}"
    if lines:
        text += "; the dashed lines are the thresholds of uncertain and fake"
    return _drawing(bars + scale + lines, text, text)


def _thresholds(points: OperatingPoints | None) -> str:
    """Return an SVG line for each threshold, and the threshold's name to the right of the line."""
    if points is None:
        return ""
    # The name `fake` is above its line, and `uncertain` is below its line. The names therefore do
    # not overlap, even if the lines are close to each other.
    named = (
        ("fake", points.fake, "text-after-edge"),
        ("uncertain", points.uncertain, "text-before-edge"),
    )
    return "".join(
        f'<path class="line" d="M0,{HEIGHT * (1 - value):.1f}H{WIDTH}"/>'
        + _label(WIDTH + 6, HEIGHT * (1 - value), name, "start", baseline)
        for name, value, baseline in named
    )


def _label(x: float, y: float, text: str, anchor: str, baseline: str = "middle") -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" dominant-baseline="{baseline}">'
        f"{text}</text>"
    )


def _drawing(content: str, description: str, caption: str, names: float = 0) -> str:
    """Return a chart as an HTML figure.

    Args:
        content: The SVG elements of the chart.
        description: The text for readers who cannot see the chart.
        caption: The text below the chart.
        names: Width in SVG units of the space to the right of the chart. The names of the
            thresholds are written in this space.
    """
    size = f"{WIDTH + 42 + names} {HEIGHT + 32}"
    return (
        f'<figure class="chart"><svg viewBox="-34 -8 {size}" role="img" '
        f'aria-label="{description}"><path class="axes" d="M0,0V{HEIGHT}H{WIDTH}"/>{content}</svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
