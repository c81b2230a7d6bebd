"""Format results as text: a line for each video, details of one video, or a summary of many.

The functions return text, which the command line prints. P(FAKE) is the detector's score, from 0
(REAL) to 1 (FAKE). A person is one face that was tracked through a video.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import fill
from typing import TextIO

from dfdetect.files import printable
from dfdetect.results import OperatingPoints, TrackResult, Verdict, VideoResult, counted
from dfdetect.scoring.verdict import FAKE_RATE, UNCERTAIN_RATE
from dfdetect.video.discovery import IMAGE_SUFFIXES

# Colours in a terminal, as Select Graphic Rendition codes of ECMA-48.
VERDICT_COLOURS = {Verdict.FAKE: "1;31", Verdict.UNCERTAIN: "33", Verdict.REAL: "36"}
WARNING_COLOUR = "33"
FAINT = "2"
# Width in characters of the first column, which shows the verdict.
VERDICT_WIDTH = len("no verdict")
# Maximum number of videos that the summary names for each reason why videos have no score.
NAMED = 3
# Maximum number of characters in a line of the explanations below the results.
LINE = 80
# The P(FAKE) that a reader may take for the limit between real and fake.
EVEN = 0.5
HINT = (
    "A score is a hint for a person who looks, never proof (docs/interpretation.md). The detector "
    "judges faces only: not voices, not scenes, and not whether a true recording is shown in a "
    "false context."
)
# What some aggregations of frames compute, in words. The other aggregations are too complicated to
# be described in a few words.
AGGREGATIONS = {
    "mean_logit": "the mean over all frames",
    "mean_probability": "the mean over all frames",
    "soft_maximum": "a soft maximum over all frames",
}
# Where the thresholds of the verdicts come from.
ORIGIN = "The thresholds were set on REAL videos that the detector was not trained on"
# A caution for the verdicts on videos, on images, and on both.
OTHERS = {
    "video": "On other footage, more REAL videos may exceed them.",
    "image": "How many REAL images exceed them was not measured.",
    "file": "On other footage, and among images, more REAL ones may exceed them.",
}
# Words that come after "fakes", for the two groups that `OperatingPoints.fakes` counts.
NEW_FAKES = {
    "people": "like those that the detector was trained on",
    "sources": "from other sources (the case of most videos from the internet)",
}


def wants_colour(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether text that is written to a stream should have colours.

    If the environment variable `NO_COLOR` (https://no-color.org) is not empty, the answer is no.
    Otherwise, if `FORCE_COLOR` is not empty, the answer is yes. If both variables are empty or
    missing, the answer is yes only if the stream is a terminal and the variable `TERM` is not
    `dumb`.

    Example:
        >>> wants_colour(sys.stdout)
        True
    """
    if environment.get("NO_COLOR"):
        return False
    if environment.get("FORCE_COLOR"):
        return True
    return environment.get("TERM") != "dumb" and stream.isatty()


def result_line(result: VideoResult, *, colour: bool = False) -> str:
    """Return a line about a video, followed by one line for each warning of the result.

    The line about the video gives the verdict, P(FAKE), the number of people, and the name of the
    video. If the video has no score, the line gives the name and the reason.

    Args:
        result: The detector's result for the video.
        colour: Whether the text contains colour codes for a terminal.

    Example:
        >>> print(result_line(detector.predict("a.mp4")))
        fake        0.951  1 person    a.mp4
    """
    name = printable(result.name)
    if result.probability is None:
        verdict = _paint(f"{'no score':{VERDICT_WIDTH}}", FAINT, colour)
        return f"{verdict}  {'':5}  {'':9}  {name}: {printable(result.message)}"
    if result.verdict is None:
        verdict = f"{'no verdict':{VERDICT_WIDTH}}"
    else:
        code = VERDICT_COLOURS[result.verdict]
        verdict = _paint(f"{result.verdict.value:{VERDICT_WIDTH}}", code, colour)
    lines = [f"{verdict}  {result.probability:.3f}  {_people(len(result.tracks)):9}  {name}"]
    mark = _paint("warning:", WARNING_COLOUR, colour)
    lines += [f"{'':{VERDICT_WIDTH}}  {mark} {printable(text)}" for text in result.warnings]
    return "\n".join(lines)


def result_details(result: VideoResult) -> str:
    """Return the reason for the verdict, details of each person, and the meaning of the numbers.

    The details of a person are P(FAKE), the times at which the person is seen, and the most
    suspicious moments.

    Returns:
        Several lines to print below the text that `result_line` returns. If the video has no score,
        the text is empty.

    Example:
        >>> print(result_details(detector.predict("a.mp4")))
        fake: P(FAKE) 0.951 is above 0.865, which only 1 % of REAL videos exceed.
        <BLANKLINE>
        person 1: P(FAKE) 0.951, seen from 0:00.2 to 0:09.8, in 32 of 32 sampled frames
          most suspicious moments: 0:03.4 (0.990), 0:05.1 (0.981), 0:07.7 (0.973)
        ...
    """
    if result.probability is None:
        return ""
    noun = noun_of(result)
    people = [
        _person(number, track, result.frames_sampled)
        for number, track in enumerate(result.tracks, start=1)
    ]
    meaning = [score_meaning(noun)]
    # Some aggregations combine the scores of all people, so that no single person decides.
    if len(people) > 1 and max(one.probability for one in result.tracks) == result.probability:
        meaning.append(f"The person with the highest P(FAKE) decides for the {noun}.")
    parts = [*people, "", *meaning, verdict_meaning(result.operating_points, noun)]
    if reason := verdict_reason(result):
        parts = [fill(f"{result.verdict}: {reason}", LINE), "", *parts]
    return "\n".join(parts)


def summary(results: Mapping[str, VideoResult], prior: float | None = None) -> str:
    """Return text that says how many videos have each verdict, and why some have no score.

    Args:
        results: The dictionary that `predict` returns: the result of each video, by name.
        prior: The P(FAKE) that a submission for Kaggle gives to videos without a score, or None if
            no submission was written.

    Example:
        >>> print(summary(results))
        5 videos, 4 scored (2 fake, 2 real), 1 without a score:
          1 x no face found: e.mp4
    """
    without = {name: result for name, result in results.items() if result.probability is None}
    noun = common_noun(results.values())
    line = f"{counted(len(results), noun)}, {len(results) - len(without)} scored"
    verdicts = Counter(result.verdict for result in results.values())
    if found := [f"{verdicts[one]} {one}" for one in VERDICT_COLOURS if verdicts[one]]:
        line += f" ({', '.join(found)})"
    if without:
        line += f", {len(without)} without a score"
        line += ":" if prior is None else f" (given the prior {prior:g}):"
    lines = [line]
    for status, count in Counter(result.status for result in without.values()).most_common():
        names = [name for name, result in without.items() if result.status == status]
        reasons = {without[name].message for name in names}
        # Messages of one status may differ in their details, which the line of each video shows.
        reason = reasons.pop() if len(reasons) == 1 else status.sentence
        more = ", ..." if count > NAMED else ""
        lines.append(printable(f"  {count} x {reason}: {', '.join(names[:NAMED])}{more}"))
    return "\n".join(lines)


def ending(results: Mapping[str, VideoResult], prior: float | None = None) -> str:
    """Return the text to print at the end, below the lines that `result_line` returned.

    - For several videos, the text is the result of `summary`. If at least one of them has a score,
      the meaning of P(FAKE) and of the verdicts follows.
    - For one video with a score, the text is the result of `result_details`.
    - For one video without a score, the text is the result of `summary` if `prior` is given.
      Otherwise, it is empty.

    Args:
        results: The dictionary that `predict` returns: the result of each video, by name.
        prior: The P(FAKE) that a submission for Kaggle gives to videos without a score, or None if
            no submission was written.

    Example:
        >>> print(ending(predict("videos")))
        <BLANKLINE>
        5 videos, 4 scored (2 fake, 2 real), 1 without a score:
        ...
    """
    if len(results) == 1:
        (result,) = results.values()
        if result.probability is None:  # its line says why it has no score
            return "" if prior is None else summary(results, prior)
        return f"\n{result_details(result)}"
    points = next((one.operating_points for one in results.values() if one.operating_points), None)
    if all(result.probability is None for result in results.values()):
        return summary(results, prior)
    noun = common_noun(results.values())
    return f"\n{summary(results, prior)}\n{score_meaning(noun)}\n{verdict_meaning(points, noun)}"


def score_meaning(noun: str = "video") -> str:
    """Return sentences that say what P(FAKE) is, and what it is not.

    Args:
        noun: The word for what was checked: `video`, `image` or `file`.

    Example:
        >>> print(score_meaning("image"))
        P(FAKE), from 0 to 1, says how strongly the most suspicious face looks
        manipulated to the detector. It is not the chance that the image is fake.
    """
    return (
        "P(FAKE), from 0 to 1, says how strongly the most suspicious face looks\n"
        f"manipulated to the detector. It is not the chance that the {noun} is fake."
    )


def verdict_meaning(points: OperatingPoints | None, noun: str = "video") -> str:
    """Return text that says what the verdicts mean, or that there are no verdicts.

    Args:
        points: The thresholds of the verdicts, or None if there are none.
        noun: The word for what was checked: `video`, `image` or `file`.

    Example:
        >>> print(verdict_meaning(detector.operating_points))
        The thresholds were set on REAL videos that the detector was not trained on:
          fake       P(FAKE) above 0.865, which 1 % of them exceed
        ...
    """
    if points is None:
        return f"{fill(f'No verdict. {no_thresholds(noun)}', LINE)}\n{fill(HINT, LINE)}"
    lines = (
        f"{ORIGIN}:",
        *(
            fill(text, LINE, initial_indent=f"  {verdict!s:11}", subsequent_indent=" " * 13)
            for verdict, text in verdict_ranges(points, noun).items()
        ),
        OTHERS[noun],
        *filter(None, [fill(fakes_found(points, noun), LINE)]),
        fill(HINT, LINE),
    )
    return "\n".join(lines)


def no_thresholds(noun: str) -> str:
    """Return a sentence that says why there is no verdict.

    `noun` is the word for what was checked: `video`, `image` or `file`.
    """
    return (
        "The checkpoint holds no thresholds, so it is not known how often a REAL "
        f"{noun} gets such a P(FAKE). To fit thresholds, use dfdetect calibrate."
    )


def verdict_ranges(points: OperatingPoints, noun: str) -> dict[Verdict, str]:
    """Return a phrase for each verdict. The phrase says which P(FAKE) leads to the verdict.

    The word "them" in a phrase means the REAL videos that the text `ORIGIN` describes. Show this
    text before the phrases.

    Args:
        points: The thresholds of the verdicts.
        noun: The word for what was checked: `video`, `image` or `file`.

    Example:
        >>> verdict_ranges(OperatingPoints(uncertain=0.76, fake=0.89), "video")[Verdict.FAKE]
        'P(FAKE) above 0.890, which 1 % of them exceed'
    """
    rare, usual = _percent(FAKE_RATE), _percent(UNCERTAIN_RATE)
    lower = "any lower P(FAKE)" + (f", also one above {EVEN:g}" if points.uncertain > EVEN else "")
    one = f"{'an' if noun == 'image' else 'a'} {noun}"
    return {
        Verdict.FAKE: f"P(FAKE) above {points.fake:.3f}, which {rare} of them exceed",
        Verdict.UNCERTAIN: f"P(FAKE) above {points.uncertain:.3f}, which {usual} of them exceed",
        Verdict.REAL: f"{lower}; this does not show that {one} is real: missed fakes score as low",
    }


def fakes_found(points: OperatingPoints, noun: str = "video") -> str:
    """Return sentences that say which shares of FAKE videos get the verdicts `fake` and `real`.

    The shares are computed from the counts in `points.fakes`. If `points.fakes` is empty, the text
    is empty.

    Args:
        points: The thresholds of the verdicts, with the counts of FAKE videos.
        noun: The word for what was checked: `video`, `image` or `file`. If it is not `video`, the
            sentences speak of "fake videos", not of "fakes".

    Example:
        >>> fakes_found(detector.operating_points)
        'Of 592 fakes like those that the detector was trained on, 45 % get the verdict fake...'
    """
    fake = "fake" if noun == "video" else "fake video"
    return " ".join(
        f"Of {counted(counts['videos'], fake)} {NEW_FAKES[new]}, "
        f"{_percent(round(counts['fake'] / counts['videos'], 2))} get the verdict fake and "
        f"{_percent(round(1 - counts['uncertain'] / counts['videos'], 2))} real."
        for new, counts in points.fakes.items()
    )


def verdict_reason(result: VideoResult) -> str:
    """Return sentences that say why a video or image has its verdict.

    If the result has no verdict, an empty text is returned.

    Example:
        >>> verdict_reason(detector.predict("a.mp4"))
        'P(FAKE) 0.951 is above 0.865, which only 1 % of REAL videos exceed.'
    """
    points, probability = result.operating_points, result.probability
    if points is None or probability is None or result.verdict is None:
        return ""
    rare = f"{points.fake:.3f}, which only {_percent(FAKE_RATE)} of REAL videos exceed"
    usual = f"{points.uncertain:.3f}, which {_percent(UNCERTAIN_RATE)} of REAL videos exceed"
    text = {
        Verdict.FAKE: f"P(FAKE) {probability:.3f} is above {rare}.",
        Verdict.UNCERTAIN: f"P(FAKE) {probability:.3f} is above {usual}, but not above {rare}.",
        Verdict.REAL: f"P(FAKE) {probability:.3f} is not above {usual}.",
    }[result.verdict]
    if result.verdict == Verdict.REAL and probability > EVEN:
        more = f"More than {_percent(UNCERTAIN_RATE)} of them exceed {EVEN:g}"
        text += f" {more}, so {EVEN:g} is not the limit."
    if result.verdict == Verdict.REAL:
        noun = noun_of(result)
        text += f" This does not show that the {noun} is real: missed fakes score as low."
    return f"{text}{_higher_parts(result, points)}"


def _higher_parts(result: VideoResult, points: OperatingPoints) -> str:
    """Return a sentence about people or moments that look more suspicious than the whole video.

    Their P(FAKE) is above the next threshold: above `points.uncertain` if the verdict on the video
    is `real`, and above `points.fake` if it is `uncertain`. The sentence begins with a space. If
    there are no such people or moments, an empty text is returned.
    """
    if result.verdict == Verdict.FAKE or result.aggregation is None:
        return ""
    limit = points.uncertain if result.verdict == Verdict.REAL else points.fake
    if any(track.probability > limit for track in result.tracks):
        briefly = "is seen in too few frames to count"
        rule = briefly if result.aggregation["tracks"] == "max" else "does not decide alone"
        return f" A person above {limit:.3f} {rule}."
    if any(one > limit for track in result.tracks for one in track.frame_probabilities):
        rule = AGGREGATIONS.get(result.aggregation["frames"], "all frames together")
        return f" Single moments are above {limit:.3f}, but the verdict rests on {rule}."
    return ""


def common_noun(results: Iterable[VideoResult]) -> str:
    """Return `image` if all results are of images, `video` if all are of videos, else `file`."""
    nouns = {noun_of(result) for result in results}
    return nouns.pop() if len(nouns) == 1 else "file"


def noun_of(result: VideoResult) -> str:
    """Return `image` for the result of an image file, and otherwise `video`.

    Example:
        >>> noun_of(detector.predict("face.jpg"))
        'image'
    """
    path = Path(result.name) if result.path is None else result.path
    return "image" if path.suffix.lower() in IMAGE_SUFFIXES else "video"


def time_stamp(seconds: float) -> str:
    """Return a time as minutes, seconds and tenths, with hours in front if there are any.

    Example:
        >>> time_stamp(3.4), time_stamp(3723.44)
        ('0:03.4', '1:02:03.4')
    """
    minutes, tenths = divmod(round(10 * seconds), 600)
    hours, minutes = divmod(minutes, 60)
    start = f"{hours}:{minutes:02}" if hours else f"{minutes}"
    return f"{start}:{tenths // 10:02}.{tenths % 10}"


def _person(number: int, track: TrackResult, frames_sampled: int) -> str:
    """Return lines about one person: P(FAKE), when the person is seen, and suspicious moments.

    The suspicious moments are those with the highest P(FAKE). If only one frame was sampled (for
    example from an image), or if the times are unknown, there is only the line with P(FAKE). A
    result from a cluster may have no suspicious moments.
    """
    text = f"person {number}: P(FAKE) {track.probability:.3f}"
    if frames_sampled <= 1 or not track.times:
        return text
    first, last = (time_stamp(track.times[position]) for position in (0, -1))
    span = f"at {first}" if len(track.times) == 1 else f"from {first} to {last}"
    frames = f"{len(track.times)} of {counted(frames_sampled, 'sampled frame')}"
    text += f", seen {span}, in {frames}"
    moments = ", ".join(
        f"{time_stamp(time)} ({probability:.3f})" for time, probability in track.most_suspicious()
    )
    return text + (f"\n  most suspicious moments: {moments}" if moments else "")


def _people(count: int) -> str:
    return "1 person" if count == 1 else f"{count} people"


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"


def _paint(text: str, code: str, colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour else text
