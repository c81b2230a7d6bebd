"""Scores -> one HTML page that needs nothing else: no network, no other file."""

import base64
from collections.abc import Mapping
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from tqdm import tqdm

from dfdetect.faces.crops import Strip, cut_faces, encode_jpeg
from dfdetect.files import atomic_path
from dfdetect.reporting.terminal import summary
from dfdetect.results import TrackResult, VideoResult
from dfdetect.runtime.budget import OutOfTimeError, TimeBudget
from dfdetect.runtime.executor import Executor
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import VideoError

JPEG_QUALITY = 80
BINS = 20
# Of curves and histogram, in the units of the drawing.
WIDTH, HEIGHT = 480, 120


def write_report(
    path: str | Path,
    results: Mapping[str, VideoResult],
    videos: Mapping[str, Path],
    prior: float,
    detector: str,
    budget: TimeBudget | None = None,
    progress: bool = False,
) -> None:
    """Write the page: a summary, a table to sort, and for each video its people.

    Every video with people is read once more, for pictures of their faces. One that cannot be read
    any more, or for which no time is left, is shown without them.

    Args:
        path: The file to write.
        results: By name, as `predict` returns them.
        videos: The files, by name.
        prior: What videos without a score were given.
        detector: What to call the detector that scored them.
        budget: The time for it.
        progress: Show a progress bar.

    Example:
        >>> write_report("report.html", results, find_videos(["videos"]), 0.5, "dfdetect")
    """
    ranked = sorted(results.items(), key=lambda pair: -(pair[1].probability or 0))
    seen = [(name, result) for name, result in ranked if result.tracks]
    shown = [(result, videos[name]) for name, result in seen if name in videos]

    def cut(decoders: DecoderPool, pair: tuple[VideoResult, Path]) -> list[Strip]:
        result, video = pair
        try:
            if budget is not None:
                budget.check()
            return cut_faces(video, result, decoders)
        except (OutOfTimeError, VideoError):
            return [[] for _ in result.tracks]

    bar = tqdm(total=len(shown), desc="report", unit="video", disable=not progress)
    sections = []
    with Executor("cpu") as executor, bar:
        strips = executor.map(lambda device, decoders: partial(cut, decoders), shown)
        for number, (name, result) in enumerate(seen):
            faces = next(strips)[1] if name in videos else [[] for _ in result.tracks]
            sections.append(_section(number, name, result, faces))
            bar.update(name in videos)
    anchors = {name: number for number, (name, _) in enumerate(seen)}
    page = Template(files("dfdetect.reporting").joinpath("report.html").read_text(encoding="utf-8"))
    text = page.substitute(
        title=escape(f"{len(results)} videos"),
        summary=escape(summary(results, prior)).replace("\n", "<br>"),
        detector=escape(detector),
        histogram=_histogram([result.probability for _, result in seen]),
        rows="\n".join(_row(name, result, anchors.get(name)) for name, result in ranked),
        videos="\n".join(sections),
    )
    with atomic_path(path) as temporary:
        # Names of files need not be UTF-8.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _row(name: str, result: VideoResult, anchor: int | None) -> str:
    label = escape(name) if anchor is None else f'<a href="#video{anchor}">{escape(name)}</a>'
    if result.probability is None:
        probability = '<td class="number" data-value="-1"></td>'
    else:
        bar = f'<span class="bar" style="{_bar_style(result.probability)}"></span>'
        text = f"{bar}{result.probability:.3f}"
        probability = f'<td class="number" data-value="{result.probability}">{text}</td>'
    return (
        f'<tr><td class="name">{label}</td>{probability}'
        f'<td class="number">{len(result.tracks)}</td>'
        f'<td class="number">{result.frames_with_faces}</td>'
        f'<td class="number">{result.timings.get("total", 0):.2f}</td>'
        f"<td>{escape(result.message)}</td></tr>"
    )


def _bar_style(probability: float) -> str:
    return f"width: {4 * probability:.2f}em; background: {_colour(probability)}"


def _colour(probability: float) -> str:
    return "var(--fake)" if probability > 0.5 else "var(--real)"


def _section(number: int, name: str, result: VideoResult, strips: list[Strip]) -> str:
    people = []
    if not any(strips):
        people.append("<p>No pictures: no time was left, or the video could not be read again.</p>")
    for person, (track, strip) in enumerate(zip(result.tracks, strips, strict=True), start=1):
        pictures = "".join(_picture(time, image) for time, image in strip)
        people.append(
            f"<p>Person {person}: P(FAKE) {track.probability:.3f}, seen from "
            f"{track.times[0]:.1f} to {track.times[-1]:.1f} s</p>"
            f'<div class="faces">{pictures}</div>{_curve(track)}'
        )
    return (
        f'<section id="video{number}"><h2>{escape(name)}: {result.probability:.3f}</h2>'
        f"{''.join(people)}</section>"
    )


def _picture(time: float, image: np.ndarray) -> str:
    text = base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode()
    return (
        f'<figure><img alt="face at {time:.1f} s" src="data:image/jpeg;base64,{text}">'
        f"{time:.1f} s</figure>"
    )


def _curve(track: TrackResult) -> str:
    """P(FAKE) over time."""
    first, last = track.times[0], track.times[-1]
    length = max(last - first, 1e-9)
    points = [
        (WIDTH * (time - first) / length, HEIGHT * (1 - probability))
        for time, probability in zip(track.times, track.frame_probabilities, strict=True)
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points)
    scale = "".join(_label(-4, HEIGHT * (1 - p), f"{p:g}", "end") for p in (0, 0.5, 1))
    return _drawing(
        f'{scale}<line x1="0" y1="{HEIGHT / 2}" x2="{WIDTH}" y2="{HEIGHT / 2}" '
        'stroke="currentColor" stroke-dasharray="4" opacity=".4"/>'
        f'<g fill="{_colour(track.probability)}" stroke="{_colour(track.probability)}">'
        f'<polyline points="{line}" fill="none" stroke-width="2"/>{dots}</g>',
        f"P(FAKE) from {first:.1f} to {last:.1f} s; the dashed line is one half",
    )


def _histogram(probabilities: list[float]) -> str:
    """Count the videos in each range of probabilities."""
    if not probabilities:
        return ""
    counts, edges = np.histogram(probabilities, BINS, (0, 1))
    step, highest = WIDTH / BINS, counts.max()
    bars = "".join(
        f'<rect x="{edge * WIDTH + 1:.1f}" y="{HEIGHT * (1 - count / highest):.1f}" '
        f'width="{step - 2:.1f}" height="{HEIGHT * count / highest:.1f}" '
        f'fill="{_colour(edge + 0.5 / BINS)}"/>'
        for count, edge in zip(counts, edges[:-1], strict=True)
    )
    scale = "".join(_label(WIDTH * p, HEIGHT + 14, f"{p:g}", "middle") for p in (0, 0.5, 1))
    return _drawing(bars + scale, f"P(FAKE) from 0 to 1; the highest bar is {_videos(highest)}")


def _videos(count: int) -> str:
    return f"{count} video" if count == 1 else f"{count} videos"


def _label(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="11" fill="currentColor" text-anchor="{anchor}" '
        f'dominant-baseline="middle">{text}</text>'
    )


def _drawing(content: str, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="-26 -8 {WIDTH + 34} {HEIGHT + 30}" role="img" '
        f'aria-label="{title}"><path d="M0,0V{HEIGHT}H{WIDTH}" fill="none" stroke="currentColor" '
        f'opacity=".4"/>{content}</svg><p class="note">{title}</p>'
    )
