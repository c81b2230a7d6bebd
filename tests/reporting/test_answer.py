from html.parser import HTMLParser

import numpy as np
import pytest

from dfdetect import OperatingPoints, Status, TrackResult, Verdict, VideoResult
from dfdetect.reporting.answer import render_answer

POINTS = OperatingPoints(uncertain=0.4, fake=0.8)
TRACK = TrackResult(0.9, [0.0, 1.0, 2.0], [(0.0, 0.0, 9.0, 9.0)] * 3, [0.2, 0.9, 0.5])


class Reader(HTMLParser):
    """Collects the text, what screen readers say of pictures, and checks that tags are closed."""

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
    return VideoResult(path=None, name="<clip>.mp4", tracks=[TRACK], **fields)


def judged(verdict, probability, **fields):
    return result(verdict=verdict, probability=probability, operating_points=POINTS, **fields)


@pytest.mark.parametrize(
    ("verdict", "probability", "words"),
    [
        (Verdict.FAKE, 0.9, ["Fake", "1 % of the REAL videos exceeded 0.80"]),
        (Verdict.UNCERTAIN, 0.6, ["Uncertain", "5 % of the REAL videos exceeded 0.40"]),
        (Verdict.REAL, 0.1, ["Real", "95 % of the REAL videos stayed at or below 0.40"]),
    ],
)
def test_render_answer_explains_the_verdict(verdict, probability, words):
    answer = Reader(render_answer(judged(verdict, probability)))
    assert [word for word in words if word not in answer.text] == []
    assert f"{probability:.2f}" in answer.text
    assert "never proof" in answer.text
    assert "<clip>.mp4" in answer.text


def test_render_answer_without_thresholds_gives_no_verdict():
    answer = Reader(render_answer(result(probability=0.9)))
    assert "No verdict" in answer.text
    assert "0.90" in answer.text


def test_render_answer_without_score_gives_the_reason():
    broken = VideoResult.without_score(None, "<clip>.mp4", Status.UNREADABLE_VIDEO, "is <empty>")
    answer = Reader(render_answer(broken))
    assert "not a readable video (is <empty>)" in answer.text


def test_render_answer_shows_warnings_and_people():
    strip = [(time, np.zeros((8, 8, 3), np.uint8)) for time in (0.5, 1.5)]
    found = judged(Verdict.FAKE, 0.9, warnings=("The faces are <small>.",))
    answer = Reader(render_answer(found, [strip]))
    assert "The faces are <small>." in answer.text
    assert "Most suspicious at 1.0 s (0.90), 2.0 s (0.50)" in answer.text
    assert answer.pictures == [
        "P(FAKE) from 0.0 to 2.0 s, between 0.20 and 0.90",
        *("Face at 0.5 s", "Face at 1.5 s"),
    ]


def test_render_answer_draws_no_curve_of_one_frame():
    track = TrackResult(0.9, [0.0], [(0.0, 0.0, 9.0, 9.0)], [0.9])
    image = VideoResult(path=None, name="a.jpg", probability=0.9, tracks=[track])
    assert "<svg" not in render_answer(image)
