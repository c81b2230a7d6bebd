"""Write results as one HTML page, which needs no network and no other file.

The page has links to moments in the videos. A link works until its video or the page is moved.

P(FAKE) is the detector's score, from 0 (REAL) to 1 (FAKE). A person is one face that was tracked
through a video.
"""

import base64
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import quote

import torch
from tqdm import tqdm

from dfdetect.faces.crops import Strip, cut_faces, encode_jpeg
from dfdetect.files import atomic_path
from dfdetect.reporting.charts import curve_chart, histogram_chart
from dfdetect.reporting.heat_maps import HeatMapPicture, HeatMapStore, picture_heat_maps
from dfdetect.reporting.terminal import (
    ORIGIN,
    OTHERS,
    common_noun,
    fakes_found,
    no_thresholds,
    noun_of,
    summary,
    time_stamp,
    verdict_ranges,
    verdict_reason,
)
from dfdetect.results import OperatingPoints, TrackResult, VideoResult, counted
from dfdetect.runtime.budget import OutOfTimeError, TimeBudget
from dfdetect.runtime.executor import Executor
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import VideoError

JPEG_QUALITY = 80
# Text in the template `report.html` that is replaced by the sections of the videos.
VIDEOS = "$videos"


def write_report(
    path: str | Path,
    results: Mapping[str, VideoResult],
    videos: Mapping[str, Path],
    prior: float | None,
    detector: str,
    budget: TimeBudget | None = None,
    progress: bool = False,
    heat_maps: HeatMapStore | None = None,
) -> None:
    """Write an HTML page: a summary, a table of videos, and a section for each video with faces.

    Each video in which faces were found is read again, to cut out pictures of the faces. If a video
    can no longer be read, or no time is left, the video's section has no such pictures.

    Args:
        path: The file to write.
        results: The dictionary that `predict` returns: the result of each video, by name.
        videos: A dictionary from the name of each video to its file.
        prior: The P(FAKE) that a submission for Kaggle gives to videos without a score, or None if
            no submission was written.
        detector: The name of the detector. The page shows this name.
        budget: The time budget of the run. When the budget is used up, no more videos are read.
        progress: Whether to show a progress bar.
        heat_maps: The store that holds the pictures of the heat maps. None means that the pictures
            are made from the heat maps in the results.

    Example:
        >>> write_report("report.html", results, find_videos(["videos"]), 0.5, "dfdetect")
    """
    ranked = sorted(results.items(), key=lambda pair: -(pair[1].probability or 0))
    seen = [(name, result) for name, result in ranked if result.tracks]
    head, tail = _page(ranked, prior, detector)
    folder = Path(path).absolute().parent
    # The names of files may contain bytes that are not valid UTF-8. These are written as escapes.
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as page,
        closing(_strips(seen, videos, budget, progress)) as strips,
    ):
        page.write(head)
        for number, ((name, result), faces) in enumerate(zip(seen, strips, strict=True)):
            maps = None if heat_maps is None else heat_maps.get(name)
            link = _link(videos[name], folder) if name in videos else ""
            page.write(_section(number, name, result, faces, maps, link))
        page.write(tail)


def _page(
    ranked: Sequence[tuple[str, VideoResult]], prior: float | None, detector: str
) -> tuple[str, str]:
    """Return the HTML before the sections of the videos, and the HTML after these sections."""
    template = files("dfdetect.reporting").joinpath("report.html").read_text(encoding="utf-8")
    head, tail = template.split(VIDEOS)
    results = [result for _, result in ranked]
    points = next((result.operating_points for result in results if result.operating_points), None)
    numbers = iter(range(len(ranked)))
    rows = [_row(name, result, next(numbers) if result.tracks else None) for name, result in ranked]
    noun = common_noun(results)
    text = Template(head).substitute(
        title=escape(counted(len(ranked), noun)),
        noun=noun,
        summary=escape(summary(dict(ranked), prior)).replace("\n", "<br>"),
        detector=escape(detector),
        meaning=_meaning(points, noun),
        histogram=histogram_chart([one.probability for one in results if one.probability], points),
        rows="\n".join(rows),
    )
    return text, tail


def _strips(
    seen: Sequence[tuple[str, VideoResult]],
    videos: Mapping[str, Path],
    budget: TimeBudget | None,
    progress: bool,
) -> Generator[list[Strip], None, None]:
    """Yield, for each video in `seen`, a list with one strip of pictures for each person.

    `seen` has the name and the result of each video in which faces were found. A strip is a list of
    pictures of one person's face, each with the time of its frame. If a video cannot be read, or no
    time is left, its strips are empty.
    """

    def cut(decoders: DecoderPool, pair: tuple[str, VideoResult]) -> list[Strip]:
        name, result = pair
        try:
            if budget is not None:
                budget.check()
            if name in videos:
                return cut_faces(videos[name], result, decoders)
        except (OutOfTimeError, VideoError):
            pass
        return [[] for _ in result.tracks]

    def make_worker(
        _: torch.device, decoders: DecoderPool
    ) -> Callable[[tuple[str, VideoResult]], list[Strip]]:
        return partial(cut, decoders)

    bar = tqdm(total=len(seen), desc="report", unit="video", disable=not progress)
    with Executor("cpu") as executor, bar:
        for _, strips in executor.map(make_worker, seen):
            yield strips
            bar.update()


def _meaning(points: OperatingPoints | None, noun: str) -> str:
    """Return HTML that says what the verdicts mean, or that the detector gives no verdicts."""
    if points is None:
        return f"<p>There are no verdicts. {no_thresholds(noun)}</p>"
    ranges = "".join(
        f'<dt class="{verdict}">{verdict}</dt><dd>{text}</dd>'
        for verdict, text in verdict_ranges(points, noun).items()
    )
    return f"<p>{ORIGIN}:</p><dl>{ranges}</dl><p>{OTHERS[noun]} {fakes_found(points, noun)}</p>"


def _row(name: str, result: VideoResult, anchor: int | None) -> str:
    label = escape(name) if anchor is None else f'<a href="#video{anchor}">{escape(name)}</a>'
    verdict = _verdict(result)
    if result.probability is None:
        probability = '<td class="number" data-value="-1"></td>'
    else:
        width = f"width: {100 * result.probability:.0f}%"
        probability = (
            f'<td class="number" data-value="{result.probability}">{result.probability:.3f}'
            f'<span class="bar" aria-hidden="true"><span style="{width}"></span></span></td>'
        )
    notes = counted(len(result.warnings), "warning") if result.warnings else ""
    if result.probability is None:
        notes = result.message
    section = "" if anchor is None else f' data-section="video{anchor}"'
    return (
        f'<tr class="{_css_class(result)}" data-verdict="{verdict}"{section}>'
        f'<th scope="row">{label}</th><td class="verdict">{verdict}</td>{probability}'
        f'<td class="number more">{len(result.tracks)}</td>'
        f'<td class="number more">{result.frames_with_faces}</td>'
        f'<td class="number more">{result.timings.get("total", 0):.2f}</td>'
        f"<td>{escape(notes)}</td></tr>"
    )


def _verdict(result: VideoResult) -> str:
    if result.probability is None:
        return "no score"
    return "no verdict" if result.verdict is None else result.verdict.value


def _css_class(result: VideoResult) -> str:
    return "none" if result.verdict is None else result.verdict.value


def _link(video: Path, folder: Path) -> str:
    """Return the URL of a video, relative to the folder that contains the page.

    If the video is on another drive, no relative URL exists, and an empty text is returned.
    """
    try:
        relative = os.path.relpath(video.absolute(), folder)
    except ValueError:  # the video is on another drive of Windows
        return ""
    # A browser must not read a file name such as a:b as a URL with the scheme `a`.
    return "./" + quote(os.fsencode(relative.replace(os.sep, "/")))


def _section(
    number: int,
    name: str,
    result: VideoResult,
    strips: Sequence[Strip],
    heat_maps: Sequence[Sequence[HeatMapPicture]] | None,
    link: str,
) -> str:
    if heat_maps is None:
        heat_maps = picture_heat_maps(result)
    parts = [
        f'<section id="video{number}" class="{_css_class(result)}">'
        f"<h2>{escape(name)}</h2>"
        f'<p><strong class="verdict">{_verdict(result)}</strong>: '
        f"{verdict_reason(result) or f'P(FAKE) {result.probability:.3f}'}</p>"
    ]
    if result.warnings:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in result.warnings)
        parts.append(f'<ul class="warnings" aria-label="warnings">{items}</ul>')
    if not any(strips):
        parts.append("<p>No pictures: no time was left, or the video could not be read again.</p>")
    timed = noun_of(result) == "video"
    people = zip(result.tracks, strips, heat_maps, strict=True)
    for person, (track, strip, maps) in enumerate(people, start=1):
        parts.append(f"<h3>Person {person}: P(FAKE) {track.probability:.3f}</h3>")
        if timed:
            parts.append(_moments(track, result.frames_sampled, link))
        chart = curve_chart(track, result.operating_points)
        parts += [_faces(person, strip, link, timed), chart]
        parts.append(_heat_maps(person, maps, link, timed))
    return "".join((*parts, "</section>\n"))


def _moments(track: TrackResult, frames_sampled: int, link: str) -> str:
    """Return an HTML paragraph that says when a person is seen, and when P(FAKE) is highest."""
    first, last = (time_stamp(track.times[place]) for place in (0, -1))
    moments = ", ".join(
        f"{_moment(time, link)} ({probability:.3f})"
        for time, probability in track.most_suspicious()
    )
    return (
        f"<p>Seen from {first} to {last}, in {len(track.times)} of {frames_sampled} frames. "
        f"Most suspicious moments: {moments}.</p>"
    )


def _moment(time: float, link: str) -> str:
    """Return a time stamp as HTML, with a link to this moment in the video.

    `link` is the URL of the video. If `link` is empty, the time stamp has no link.
    """
    stamp = time_stamp(time)
    if not link:
        return stamp
    return f'<a href="{link}#t={time:.2f}" aria-label="play the video at {stamp}">{stamp}</a>'


def _faces(person: int, strip: Strip, link: str, timed: bool) -> str:
    figures = []
    for time, image in strip:
        text = f"person {person}" + (f" at {time_stamp(time)}" if timed else "")
        picture = _picture(encode_jpeg(image, JPEG_QUALITY), text)
        figures.append(_figure(picture, _moment(time, link) if timed else ""))
    return f'<div class="faces">{"".join(figures)}</div>' if figures else ""


def _heat_maps(person: int, maps: Sequence[HeatMapPicture], link: str, timed: bool) -> str:
    if not maps:
        return ""
    figures = []
    for one in maps:
        moment = f" at {time_stamp(one.time)}" if timed else ""
        text = f"heat map of person {person}{moment}, {one.description}"
        button = f'<button aria-pressed="false" title="enlarge">{_picture(one.jpeg, text)}</button>'
        figures.append(_figure(button, _moment(one.time, link) if timed else ""))
    moments = " at the most suspicious moments" if timed else ""
    return (
        f'<p class="note">Where the detector sees evidence for FAKE{moments}: none '
        '<span class="heat" aria-hidden="true"></span> strong. Click a picture to enlarge it.</p>'
        f'<div class="faces">{"".join(figures)}</div>'
    )


def _figure(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _picture(jpeg: bytes, alt: str) -> str:
    source = base64.b64encode(jpeg).decode()
    return f'<img alt="{alt}" src="data:image/jpeg;base64,{source}">'
