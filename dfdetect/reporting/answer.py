"""Render the result for a file as HTML for the local web page: the verdict, then each person.

P(FAKE) is the detector's score, from 0 (REAL) to 1 (FAKE). A person is one face that was tracked
through a video.
"""

import base64
from html import escape

import numpy as np

from dfdetect.faces.crops import encode_jpeg
from dfdetect.reporting.charts import curve_chart
from dfdetect.reporting.heat_maps import describe_heat_map, paint_heat_map
from dfdetect.reporting.terminal import (
    HINT,
    ORIGIN,
    OTHERS,
    fakes_found,
    no_thresholds,
    noun_of,
    time_stamp,
    verdict_reason,
)
from dfdetect.results import HeatMap, OperatingPoints, TrackResult, Verdict, VideoResult

JPEG_QUALITY = 80
HEADLINES = {
    Verdict.FAKE: "Fake: a face looks manipulated",
    Verdict.UNCERTAIN: "Uncertain: too suspicious for real, not enough for fake",
    Verdict.REAL: "Real: no clear sign of manipulation was found",
}
HEAT_MAPS = "Where the detector sees evidence for FAKE: the redder, the stronger."


def render_note(text: str) -> str:
    """Return an HTML paragraph with a short message, such as "Looking at frame 3 of 32 ..."."""
    return f'<p class="note">{escape(text)}</p>'


def render_verdict(result: VideoResult) -> str:
    """Return HTML with the verdict on a file, the meaning of the verdict, and the warnings.

    If the file has no score, the HTML gives the reason instead. A page that shows the HTML must
    load the style sheet `app.css`.

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
        f"{_meaning(result)}"
        f"{f'<ul>{warnings}</ul>' if warnings else ''}"
        f'<p class="note">{HINT}</p></article>'
    )


def render_people(result: VideoResult) -> str:
    """Return HTML with a section for each person: P(FAKE) over time, and the heat maps.

    A heat map shows which parts of a face are evidence for FAKE. If the result has no heat maps,
    the HTML has none. All pictures are embedded in the HTML. A page that shows the HTML must load
    the style sheet `app.css`.

    Example:
        >>> render_people(detector.predict("a.mp4", heat_maps=4))
        '<article class="answer">...
    """
    people = "".join(
        _person(number, track, result) for number, track in enumerate(result.tracks, start=1)
    )
    return f'<article class="answer {result.verdict or "none"}">{people}</article>'


def _headline(result: VideoResult) -> str:
    return "No verdict" if result.verdict is None else HEADLINES[result.verdict]


def _meaning(result: VideoResult) -> str:
    """Return HTML that says what the verdict means, and how reliable the verdict is.

    If there is no verdict, the HTML gives the reason instead.
    """
    points, noun = result.operating_points, noun_of(result)
    if points is None or result.verdict is None:
        return f"<p>{no_thresholds(noun)}</p>"
    return (
        f"<p>What it means: {verdict_reason(result)}</p>"
        f"<p>How sure it is: {ORIGIN}. {OTHERS[noun]} {fakes_found(points, noun)}</p>"
    )


def _scale(probability: float, points: OperatingPoints | None) -> str:
    """Return HTML that shows P(FAKE) and the thresholds of the verdicts on a scale from 0 to 1."""
    marks = note = ""
    if points is not None:
        marks = "".join(map(_threshold, (points.uncertain, points.fake)))
        note = (
            f'<p class="note">The marks are the thresholds: <em>uncertain</em> above '
            f"{points.uncertain:.3f}, <em>fake</em> above {points.fake:.3f}.</p>"
        )
    place = f"{100 * probability:.1f}%"
    return (
        f'<p class="probability">P(FAKE) <strong>{probability:.2f}</strong></p>'
        f'<div class="scale" aria-hidden="true"><span style="width: {place}"></span>{marks}</div>'
        f"{note}"
    )


def _threshold(value: float) -> str:
    return f'<i style="left: {100 * value:.1f}%"></i>'


def _person(number: int, track: TrackResult, result: VideoResult) -> str:
    is_image = result.frames_sampled <= 1
    chart = curve_chart(track, result.operating_points)
    when = "" if is_image else f"<p>{_when(track)}</p>{chart}"
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
    """Return an HTML figure: a face, the same face with its heat map, and a caption."""
    at = "" if is_image else f"At {time_stamp(heat_map.time)}: "
    where = describe_heat_map(heat_map)
    return (
        f"<figure>{_picture(heat_map.crop, 'Face')}"
        f"{_picture(paint_heat_map(heat_map), 'Its heat map')}"
        f"<figcaption>{at}{where}</figcaption></figure>"
    )


def _picture(image: np.ndarray, text: str) -> str:
    data = base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode()
    return f'<img alt="{text}" src="data:image/jpeg;base64,{data}">'
