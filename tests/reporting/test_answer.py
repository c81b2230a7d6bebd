from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dfdetect import HeatMap, OperatingPoints, Status, TrackResult, Verdict, VideoResult
from dfdetect.reporting.answer import render_people, render_verdict

POINTS = OperatingPoints(uncertain=0.4, fake=0.8)
TRACK = TrackResult(0.9, [0.0, 1.0, 2.0], [(0.0, 0.0, 9.0, 9.0)] * 3, [0.2, 0.9, 0.5])


class Reader(HTMLParser):
    """Collects the text and the descriptions of pictures, and checks that tags are closed."""

    def __init__(self, html):
        super().__init__()
        self.text, self.pictures, self.open = "", [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag != "img":
            self.open.append(tag)
        found = dict(attributes)
        self.pictures += filter(None, [found.get("alt"), found.get("aria-label")])

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += f"{data} "


def result(**fields):
    return VideoResult(path=None, name="<clip>.mp4", tracks=[TRACK], frames_sampled=3, **fields)


def judged(verdict, probability, **fields):
    return result(verdict=verdict, probability=probability, operating_points=POINTS, **fields)


@pytest.mark.parametrize(
    ("verdict", "probability", "words"),
    [
        (Verdict.FAKE, 0.9, ["Fake", "P(FAKE) 0.900 is above 0.800, which only 1 % of REAL"]),
        (Verdict.UNCERTAIN, 0.6, ["Uncertain", "P(FAKE) 0.600 is above 0.400, which 5 % of REAL"]),
        (Verdict.REAL, 0.1, ["Real", "P(FAKE) 0.100 is not above 0.400", "does not show"]),
    ],
)
def test_render_verdict_explains_the_verdict(verdict, probability, words):
    answer = Reader(render_verdict(judged(verdict, probability)))
    assert [word for word in words if word not in answer.text] == []
    assert f"{probability:.2f}" in answer.text
    assert "never proof" in answer.text
    assert "<clip>.mp4" in answer.text
    assert "uncertain above 0.400, fake above 0.800" in " ".join(answer.text.split())


def test_render_verdict_says_how_many_fakes_are_found():
    points = replace(POINTS, fakes={"people": {"videos": 4, "uncertain": 2, "fake": 1}})
    found = replace(judged(Verdict.FAKE, 0.9), operating_points=points)
    assert "Of 4 fakes like those" in Reader(render_verdict(found)).text
    assert "docs/interpretation.md" in Reader(render_verdict(found)).text


def test_render_verdict_of_an_image_speaks_of_images():
    image = replace(judged(Verdict.REAL, 0.1), name="a.png")
    text = Reader(render_verdict(image)).text
    assert "This does not show that the image is real" in text
    assert "How many REAL images exceed them was not measured." in text


def test_render_verdict_without_thresholds_gives_no_verdict():
    answer = Reader(render_verdict(result(probability=0.9)))
    assert "No verdict" in answer.text
    assert "0.90" in answer.text


def test_render_verdict_without_score_gives_the_reason():
    broken = VideoResult.without_score(None, "<clip>.mp4", Status.UNREADABLE_VIDEO, "is <empty>")
    answer = Reader(render_verdict(broken))
    assert "not a readable video (is <empty>)" in answer.text


def test_render_verdict_shows_warnings():
    found = judged(Verdict.FAKE, 0.9, warnings=("The faces are <small>.",))
    assert "The faces are <small>." in Reader(render_verdict(found)).text


def test_render_people_shows_moments_curve_and_heat_maps():
    heat_map = HeatMap(1.0, np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), np.float32))
    track = replace(TRACK, heat_maps=[heat_map])
    people = Reader(render_people(replace(judged(Verdict.FAKE, 0.9), tracks=[track])))
    assert "Seen from 0:00.0 to 0:02.0" in people.text
    assert "Most suspicious at 0:01.0 (0.90)." in people.text
    assert "At 0:01.0: strongest in the central middle" in people.text
    assert people.pictures == [
        "P(FAKE) over time, from 0:00.0 to 0:02.0, between 0.20 and 0.90",
        "Face",
        "Its heat map",
    ]
    assert "the dashed lines are the thresholds" in people.text


def test_render_people_of_an_image_has_no_times():
    heat_map = HeatMap(0.0, np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), np.float32))
    track = TrackResult(0.9, [0.0], [(0.0, 0.0, 9.0, 9.0)], [0.9], [heat_map])
    image = VideoResult(path=None, name="a.jpg", probability=0.9, tracks=[track], frames_sampled=1)
    html = render_people(image)
    assert "Person 1: P(FAKE) 0.90" in Reader(html).text
    assert Reader(html).pictures == ["Face", "Its heat map"]
    assert "<svg" not in html
    assert "0:00" not in html
