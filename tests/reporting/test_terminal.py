import io
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dfdetect import OperatingPoints, Status, TrackResult, Verdict, VideoResult
from dfdetect.reporting.json_file import to_json
from dfdetect.reporting.terminal import (
    ending,
    fakes_found,
    result_details,
    result_line,
    score_meaning,
    summary,
    time_stamp,
    verdict_meaning,
    verdict_ranges,
    verdict_reason,
    wants_colour,
)

POINTS = OperatingPoints(uncertain=0.6, fake=0.8)
BOX = (1.0, 2.0, 3.0, 4.0)
SWAPPED = TrackResult(0.9, [1.0, 2.0, 63.44], [BOX] * 3, [0.7, 0.95, 0.9])
OTHER = TrackResult(0.2, [5.0], [BOX], [0.2])
FAKE = VideoResult(
    path=Path("videos/a.mp4"),
    name="a.mp4",
    probability=0.9,
    verdict=Verdict.FAKE,
    operating_points=POINTS,
    tracks=[SWAPPED, OTHER],
    frames_sampled=32,
)
NO_VERDICT = VideoResult(
    path=Path("b.mp4"), name="b.mp4", probability=0.3, tracks=[OTHER], frames_sampled=32
)
NO_FACE = VideoResult.without_score(Path("c.mp4"), "c.mp4", Status.NO_FACE)
GONE = VideoResult.without_score(None, "d.mp4", Status.NO_SUCH_VIDEO)


class Screen(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "wanted"),
    [
        (Screen(), {}, True),
        (Screen(), {"TERM": "dumb"}, False),
        (Screen(), {"NO_COLOR": "1"}, False),
        (Screen(), {"NO_COLOR": ""}, True),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_wants_colour_heeds_the_environment(stream, environment, wanted):
    assert wants_colour(stream, environment) == wanted


def test_result_line_has_verdict_probability_people_and_name():
    assert result_line(FAKE).split() == ["fake", "0.900", "2", "people", "a.mp4"]
    assert result_line(NO_VERDICT).split() == ["no", "verdict", "0.300", "1", "person", "b.mp4"]
    assert result_line(NO_FACE).split(None, 2) == ["no", "score", "c.mp4: no face found"]
    starts = [result_line(one).index(one.name) for one in (FAKE, NO_VERDICT, NO_FACE)]
    assert len(set(starts)) == 1


def test_result_line_colours_the_verdict_alone():
    assert result_line(FAKE, colour=True).startswith("\x1b[1;31mfake      \x1b[0m  0.900")
    assert "\x1b" not in result_line(FAKE)


def test_result_line_shows_warnings_below():
    warned = VideoResult(**{**vars(FAKE), "warnings": ("The face is dark.", "Few frames.")})
    line, *warnings = result_line(warned).splitlines()
    assert line == result_line(FAKE)
    assert [text.strip() for text in warnings] == [
        "warning: The face is dark.",
        "warning: Few frames.",
    ]


def test_result_line_shields_the_terminal_from_names():
    named = VideoResult(**{**vars(FAKE), "name": "\x1b[31mred\n.mp4"})
    assert "\x1b" not in result_line(named)
    assert len(result_line(named).splitlines()) == 1


def test_result_details_say_who_and_when():
    lines = result_details(FAKE).splitlines()
    assert lines[0] == "fake: P(FAKE) 0.900 is above 0.800, which only 1 % of REAL videos exceed."
    assert (
        lines[2] == "person 1: P(FAKE) 0.900, seen from 0:01.0 to 1:03.4, in 3 of 32 sampled frames"
    )
    assert lines[3] == "  most suspicious moments: 0:02.0 (0.950), 1:03.4 (0.900)"
    assert lines[4] == "person 2: P(FAKE) 0.200, seen at 0:05.0, in 1 of 32 sampled frames"
    assert result_details(NO_FACE) == ""


def test_result_details_of_a_cluster_name_no_moments():
    tracks = [replace(track, boxes=[], frame_probabilities=[]) for track in FAKE.tracks]
    assert "moments" not in result_details(replace(FAKE, tracks=tracks))


@pytest.mark.parametrize(
    ("probability", "reason"),
    [
        (0.7, "P(FAKE) 0.700 is above 0.600, which 5 % of REAL videos exceed, but not above 0.800"),
        (
            0.55,
            "not above 0.600, which 5 % of REAL videos exceed. More than 5 % of them exceed 0.5,",
        ),
        (0.3, "P(FAKE) 0.300 is not above 0.600, which 5 % of REAL videos exceed."),
    ],
)
def test_verdict_reason_compares_with_the_thresholds(probability, reason):
    result = replace(FAKE, probability=probability, verdict=POINTS.verdict(probability))
    assert reason in verdict_reason(result)
    assert ("0.5," in verdict_reason(result)) == (probability == 0.55)
    assert verdict_reason(NO_VERDICT) == ""


MEAN = {"frames": "mean_logit", "tracks": "max"}


@pytest.mark.parametrize(
    ("frames", "aggregation", "sentence"),
    [
        ([0.2, 0.7], MEAN, "Single moments are above 0.600, but the verdict rests on the mean"),
        ([0.2, 0.7], {**MEAN, "frames": "soft_maximum"}, "rests on a soft maximum over all frames"),
        ([0.2, 0.7], {**MEAN, "frames": "power_law"}, "rests on all frames together"),
        ([0.2, 0.6], MEAN, ""),
        ([0.2, 0.7], None, ""),
    ],
)
def test_verdict_reason_says_why_moments_above_the_threshold_do_not_count(
    frames, aggregation, sentence
):
    track = TrackResult(0.4, [0.0, 1.0], [BOX] * 2, frames)
    result = replace(
        FAKE, probability=0.4, verdict=Verdict.REAL, tracks=[track], aggregation=aggregation
    )
    assert sentence in verdict_reason(result)
    assert ("Single moments" in verdict_reason(result)) == bool(sentence)
    unsure = replace(result, probability=0.65, verdict=Verdict.UNCERTAIN)
    assert "Single moments" not in verdict_reason(unsure)


def test_verdict_reason_says_why_a_person_above_the_threshold_does_not_count():
    brief = TrackResult(0.95, [1.0], [BOX], [0.95])
    real = replace(FAKE, probability=0.2, verdict=Verdict.REAL, tracks=[OTHER, brief])
    text = verdict_reason(replace(real, aggregation=MEAN))
    assert text.endswith("A person above 0.600 is seen in too few frames to count.")
    pooled = replace(real, aggregation={**MEAN, "tracks": "pooled"})
    assert verdict_reason(pooled).endswith("A person above 0.600 does not decide alone.")


def test_texts_of_an_image_speak_of_images():
    image = replace(
        FAKE,
        path=Path("a.jpg"),
        name="a.jpg",
        probability=0.2,
        verdict=Verdict.REAL,
        tracks=[OTHER],
    )
    text = result_details(replace(image, frames_sampled=1))
    assert "not the chance that the image is fake" in text
    assert "does not show that an image is real" in " ".join(text.split())
    assert "How many REAL images exceed them was not measured." in text
    assert summary({"a.jpg": image}).startswith("1 image, 1 scored")
    assert summary({"a.jpg": image, "a.mp4": FAKE}).startswith("2 files, 2 scored")
    assert "among images" in ending({"a.jpg": image, "a.mp4": FAKE})


def test_verdict_ranges_of_real_reach_above_a_half_only_if_the_threshold_does():
    assert "any lower P(FAKE), also one above 0.5;" in verdict_ranges(POINTS, "video")[Verdict.REAL]
    low = OperatingPoints(uncertain=0.5, fake=0.8)
    assert "any lower P(FAKE);" in verdict_ranges(low, "video")[Verdict.REAL]


def test_result_details_say_who_decides_only_if_one_person_does():
    together = VideoResult(**{**vars(FAKE), "probability": 0.7})
    for result, said in ((FAKE, True), (NO_VERDICT, False), (together, False)):
        assert ("highest P(FAKE) decides" in result_details(result)) == said


def test_result_details_of_a_single_frame_have_no_times():
    image = VideoResult(path=None, name="", probability=0.2, tracks=[OTHER], frames_sampled=1)
    assert result_details(image).splitlines()[0] == "person 1: P(FAKE) 0.200"


def test_verdict_meaning_states_thresholds_and_their_rates():
    text = verdict_meaning(POINTS)
    assert "P(FAKE) above 0.800, which 1 % of them exceed" in text
    assert "P(FAKE) above 0.600, which 5 % of them exceed" in text
    assert "never proof" in text
    assert "holds no thresholds" in verdict_meaning(None)
    assert "0.5" not in verdict_meaning(None)


def test_fakes_found_says_how_many_fakes_get_which_verdict():
    counts = {
        "people": {"videos": 200, "uncertain": 120, "fake": 80},
        "sources": {"videos": 7, "uncertain": 2, "fake": 1},
    }
    text = fakes_found(replace(POINTS, fakes=counts))
    assert text == (
        "Of 200 fakes like those that the detector was trained on, 40 % get the verdict fake and "
        "40 % real. Of 7 fakes from other sources (the case of most videos from the internet), "
        "14 % get the verdict fake and 71 % real."
    )
    meaning = verdict_meaning(replace(POINTS, fakes=counts))
    assert text in " ".join(meaning.split())
    assert max(map(len, meaning.splitlines())) <= 80


@pytest.mark.parametrize("noun", ["image", "file"])
def test_fakes_found_beside_an_image_says_that_videos_were_counted(noun):
    counts = {"people": {"videos": 200, "uncertain": 120, "fake": 80}}
    points = replace(POINTS, fakes=counts)
    assert fakes_found(points, noun).startswith("Of 200 fake videos like those that")
    assert "Of 200 fake videos like those" in verdict_meaning(points, noun)


def test_fakes_found_says_one_fake():
    points = replace(POINTS, fakes={"people": {"videos": 1, "uncertain": 0, "fake": 0}})
    assert fakes_found(points).startswith("Of 1 fake like those that the detector was trained on,")


def test_verdict_meaning_says_nothing_of_fakes_that_were_not_measured():
    assert fakes_found(POINTS) == ""
    assert "get the verdict" not in verdict_meaning(POINTS)


def test_summary_counts_verdicts_and_reasons():
    results = {one.name: one for one in (FAKE, NO_VERDICT, NO_FACE, GONE)}
    lines = summary(results).splitlines()
    assert lines[0] == "4 videos, 2 scored (1 fake), 2 without a score:"
    assert "  1 x no face found: c.mp4" in lines
    assert "  1 x no such video: d.mp4" in lines
    assert "2 without a score (given the prior 0.4):" in summary(results, 0.4)
    assert summary({"b.mp4": NO_VERDICT}) == "1 video, 1 scored"


def test_summary_counts_a_status_once_whatever_its_details():
    results = {
        name: VideoResult.without_score(None, name, Status.UNREADABLE_VIDEO, details)
        for name, details in (("a.mp4", "one"), ("b.mp4", "two"))
    }
    assert summary(results).splitlines()[1:] == ["  2 x not a readable video: a.mp4, b.mp4"]
    del results["b.mp4"]
    assert summary(results).splitlines()[1:] == ["  1 x not a readable video (one): a.mp4"]


def test_ending_is_of_one_video_or_of_many():
    assert ending({"a.mp4": FAKE}).strip() == result_details(FAKE)
    assert ending({"c.mp4": NO_FACE}) == ""
    assert "given the prior 0.5" in ending({"c.mp4": NO_FACE}, 0.5)
    both = {"a.mp4": FAKE, "c.mp4": NO_FACE}
    meaning = f"{score_meaning()}\n{verdict_meaning(POINTS)}"
    assert ending(both).strip() == f"{summary(both)}\n{meaning}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00.0"), (3.44, "0:03.4"), (59.96, "1:00.0"), (3723.4, "1:02:03.4")],
)
def test_time_stamp_is_as_players_show_it(seconds, text):
    assert time_stamp(seconds) == text


def test_result_line_of_four_hundred_results_is_fast():
    """CPU time is measured for both outputs: lines with a summary, and JSON."""
    times = [number / 3 for number in range(32)]
    track = TrackResult(0.9, times, [(100.123456, 2.0, 3.0, 4.0)] * 32, [0.123456789] * 32)
    results = {
        f"{number}.mp4": VideoResult(**{**vars(FAKE), "name": f"{number}.mp4", "tracks": [track]})
        for number in range(400)
    }

    def as_lines():
        return [*map(result_line, results.values()), ending(results)]

    def as_json():
        return list(map(to_json, results.values()))

    for print_all in (as_lines, as_json):
        start = time.process_time()
        assert len(print_all()) >= 400
        assert time.process_time() - start < 0.2
