"""A result -> a piece of HTML for the local page: the verdict first, then each person."""

import base64
from html import escape

import numpy as np

from dfdetect.faces.crops import encode_jpeg
from dfdetect.reporting.heat_maps import paint_heat_map
from dfdetect.reporting.terminal import time_stamp
from dfdetect.results import HeatMap, OperatingPoints, TrackResult, Verdict, VideoResult
from dfdetect.scoring.verdict import FAKE_RATE, UNCERTAIN_RATE

JPEG_QUALITY = 80
# Of a curve, in the units of the drawing.
WIDTH, HEIGHT = 480, 110
HEADLINES = {
    Verdict.FAKE: "Fake: a face looks manipulated",
    Verdict.UNCERTAIN: "Uncertain: too suspicious for real, not enough for fake",
    Verdict.REAL: "Real: no face looks manipulated",
}
CAUTION = (
    "A score is a hint for a person who looks, never proof. The detector judges faces only: not "
    "voices, not scenes, and not whether a true video is shown in a false context."
)

HEAT_MAPS = "Where the detector looks: the redder a place, the more it speaks for FAKE."


def render_note(text: str) -> str:
    """Render what is being done, or could not be done."""
    return f'<p class="note">{escape(text)}</p>'


def render_verdict(result: VideoResult) -> str:
    """Render the verdict on a video, what it means, and warnings; or why there is no score.

    Returns:
        HTML; the style sheet `app.css` gives it its looks.

    Example:
        >>> render_verdict(detector.predict("a.mp4"))
        '<article class="answer real">...
    """
    name = f'<p class="file">{escape(result.name)}</p>'
    if result.probability is None:
        text = f"<h2>No score</h2><p>{escape(result.message)}</p>"
        return f'<article class="answer none">{name}{text}</article>'
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in result.warnings)
    return (
        f'<article class="answer {result.verdict or "none"}">{name}'
        f"<h2>{_headline(result)}</h2>{_scale(result.probability, result.operating_points)}"
        f"<p>{_meaning(result)}</p>"
        f"{f'<ul>{warnings}</ul>' if warnings else ''}"
        f'<p class="note">{CAUTION}</p></article>'
    )


def render_people(result: VideoResult) -> str:
    """Render each person's P(FAKE) over time, and their heat maps if the result has any.

    Returns:
        HTML with all pictures in it.

    Example:
        >>> render_people(detector.predict("a.mp4", heat_maps=4))
        '<article class="answer">...
    """
    is_image = result.frames_sampled <= 1
    people = "".join(
        _person(number, track, is_image) for number, track in enumerate(result.tracks, start=1)
    )
    return f'<article class="answer {result.verdict or "none"}">{people}</article>'


def _headline(result: VideoResult) -> str:
    return "No verdict" if result.verdict is None else HEADLINES[result.verdict]


def _meaning(result: VideoResult) -> str:
    """What the verdict says, in words, with the thresholds."""
    points = result.operating_points
    if points is None or result.verdict is None:
        return (
            "The detector has no thresholds: it is not known how often a REAL video gets such a "
            "probability."
        )
    rare, usual = f"{100 * FAKE_RATE:g} %", f"{100 * UNCERTAIN_RATE:g} %"
    shares = {
        Verdict.FAKE: f"{rare} of these exceed {points.fake:.2f}. On other footage, more may.",
        Verdict.UNCERTAIN: (
            f"{usual} of these exceed {points.uncertain:.2f}, and {rare} exceed {points.fake:.2f}. "
            "On other footage, more may."
        ),
        Verdict.REAL: (
            f"{100 - 100 * UNCERTAIN_RATE:g} % of these stay at or below {points.uncertain:.2f}. "
            "This does not show that the video is real: fakes that the detector misses score as "
            "low."
        ),
    }[result.verdict]
    return (
        "What it means: the thresholds were set on REAL videos that the detector was not trained "
        f"on; {shares}"
    )


def _scale(probability: float, points: OperatingPoints | None) -> str:
    """A line from 0 to 1 with the video's probability and the thresholds."""
    marks = "" if points is None else "".join(map(_threshold, (points.uncertain, points.fake)))
    place = f"{100 * probability:.1f}%"
    return (
        f'<p class="probability">P(FAKE) <strong>{probability:.2f}</strong></p>'
        f'<div class="scale" aria-hidden="true"><span style="width: {place}"></span>{marks}</div>'
    )


def _threshold(value: float) -> str:
    return f'<i style="left: {100 * value:.1f}%"></i>'


def _person(number: int, track: TrackResult, is_image: bool) -> str:
    when = "" if is_image else f"<p>{_when(track)}</p>{_curve(track)}"
    faces = "".join(_face(heat_map, is_image) for heat_map in track.heat_maps)
    return (
        f"<section><h3>Person {number}: P(FAKE) {track.probability:.2f}</h3>{when}"
        f"{f'<p>{HEAT_MAPS}</p><div class=faces>{faces}</div>' if faces else ''}</section>"
    )


def _when(track: TrackResult) -> str:
    moments = ", ".join(
        f"{time_stamp(time)} ({probability:.2f})" for time, probability in track.most_suspicious()
    )
    first, last = time_stamp(track.times[0]), time_stamp(track.times[-1])
    seen = f"at {first}" if first == last else f"from {first} to {last}"
    return f"Seen {seen}. Most suspicious at {moments}."


def _face(heat_map: HeatMap, is_image: bool) -> str:
    """A face as it is, and with its heat map."""
    at = "" if is_image else f" at {time_stamp(heat_map.time)}"
    return (
        f"<figure>{_picture(heat_map.crop, f'Face{at}')}"
        f"{_picture(paint_heat_map(heat_map), f'Heat map of the face{at}')}"
        f"<figcaption>{at}</figcaption></figure>"
    )


def _picture(image: np.ndarray, text: str) -> str:
    data = base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode()
    return f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'


def _curve(track: TrackResult) -> str:
    """P(FAKE) over time; nothing for a person who is seen in one frame only."""
    if len(track.times) < 2:
        return ""
    first, last = track.times[0], track.times[-1]
    points = [
        (WIDTH * (time - first) / max(last - first, 1e-9), HEIGHT * (1 - probability))
        for time, probability in zip(track.times, track.frame_probabilities, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    labels = "".join(
        f'<text x="-6" y="{HEIGHT * (1 - value):g}" text-anchor="end" '
        f'dominant-baseline="middle">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    ends = (
        f'<text x="0" y="{HEIGHT + 16}">{time_stamp(first)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT + 16}" text-anchor="end">{time_stamp(last)}</text>'
    )
    text = (
        f"P(FAKE) from {time_stamp(first)} to {time_stamp(last)}, between "
        f"{min(track.frame_probabilities):.2f} and {max(track.frame_probabilities):.2f}"
    )
    return (
        f'<svg viewBox="-30 -8 {WIDTH + 36} {HEIGHT + 28}" role="img" aria-label="{text}">'
        f'<path class="axes" d="M0,0V{HEIGHT}H{WIDTH}M0,{HEIGHT / 2}H{WIDTH}"/>{labels}{ends}'
        f'<polyline points="{line}"/>{dots}</svg>'
    )
