from dataclasses import replace

import numpy as np
import pytest

from dfdetect.reporting.painting import (
    PERSON_COLOURS,
    BoxPainter,
    PersonPath,
    paint_image,
)
from dfdetect.results import TrackResult, Verdict, VideoResult
from dfdetect.video.planes import Planes

GREY = np.full((360, 640, 3), 60, np.uint8)
LEFT, RIGHT = (100.0, 100.0, 200.0, 240.0), (400.0, 100.0, 500.0, 240.0)


def track(box, times=(0.5, 1.0, 1.5), probability=0.8):
    return TrackResult(probability, list(times), [box] * len(times), [probability] * len(times))


def result(*tracks):
    return VideoResult(path=None, name="a.mp4", probability=0.8, tracks=list(tracks))


def paint(found, time, image=GREY, seconds=2.0):
    """Return the painter, and the painted picture in RGB."""
    painter = BoxPainter(found, image.shape[1], image.shape[0], seconds)
    picture = Planes.of_size(*painter.size)
    picture.place(Planes.of_rgb(image).frame, *painter.frame_size)
    painter.draw(picture, time)
    return painter, picture.frame.to_ndarray(format="rgb24").astype(int)


def near(image, colour):
    return np.abs(image - colour).max(axis=-1) < 40


def test_person_path_interpolates_between_sampled_frames():
    moving = TrackResult(0.5, [1.0, 2.0], [(0, 0, 10, 10), (20, 0, 30, 10)], [0.2, 0.6])
    box, probability = PersonPath(moving, 1.0).at(1.25)
    assert box == (5, 0, 15, 10)
    assert probability == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("time", "known"),
    [(0.4, False), (0.6, True), (1.0, True), (2.4, True), (2.6, False), (5.4, False), (5.6, True)],
)
def test_person_path_is_none_far_from_sampled_frames(time, known):
    path = PersonPath(track(LEFT, (1.0, 2.0, 6.0)), 0.8)
    assert (path.at(time) is not None) == known


def test_person_path_of_one_frame():
    path = PersonPath(track(LEFT, (3.0,)), 1.0)
    assert path.at(3.4)[0] == LEFT
    assert path.at(4.0) is None


def test_box_painter_draws_boxes_around_faces():
    _, image = paint(result(track(LEFT), track(RIGHT)), 1.0)
    for (left, top, right, bottom), colour in zip((LEFT, RIGHT), PERSON_COLOURS[:2], strict=True):
        edges = near(image, colour)
        middle = int(left + right) // 2, int(top + bottom) // 2
        assert edges[middle[1], int(left)]
        assert edges[middle[1], int(right) - 1]
        assert edges[int(bottom) - 1, middle[0]]
        inside = image[int(top) + 6 : int(bottom) - 6, int(left) + 6 : int(right) - 6]
        assert np.abs(inside - 60).max() < 6
    assert np.abs(image[300:358, :] - 60).max() < 6
    assert np.abs(image[:60] - 60).max() < 6


def test_box_painter_draws_no_box_of_an_absent_person():
    _, image = paint(result(track(LEFT), track(RIGHT, (1.5, 2.0))), 0.5)
    assert near(image[:360], PERSON_COLOURS[0]).any()
    assert not near(image[:360], PERSON_COLOURS[1]).any()


def test_box_painter_brightens_the_panel_up_to_the_current_time():
    found = result(track(LEFT, np.linspace(0.1, 1.9, 19)))
    bright = [
        near(paint(found, time)[1][360:], PERSON_COLOURS[0]).sum() for time in (0.1, 1.0, 1.9)
    ]
    assert bright[0] < bright[1] < bright[2]


def test_box_painter_clips_boxes_to_the_picture():
    _, image = paint(result(track((-50.0, -50.0, 700.0, 500.0))), 1.0)
    assert near(image[:360, :4], PERSON_COLOURS[0]).any()
    assert not near(image[362:380], PERSON_COLOURS[0]).any()


@pytest.mark.parametrize(
    ("size", "frame_size"),
    [((640, 360), (640, 360)), ((224, 168), (480, 360)), ((3840, 2160), (1280, 720))],
)
def test_box_painter_resizes_small_and_large_frames(size, frame_size):
    painter = BoxPainter(result(track(LEFT)), *size, 2.0)
    assert painter.frame_size == frame_size
    assert painter.size[0] == frame_size[0]
    assert painter.size[1] > frame_size[1]


@pytest.mark.parametrize("size", [(3, 3), (40, 4000), (4000, 40), (97, 131)])
def test_box_painter_takes_odd_shapes(size):
    image = np.full((size[1], size[0], 3), 60, np.uint8)
    found = replace(result(track((1.0, 1.0, 3.0, 3.0))), verdict=Verdict.UNCERTAIN)
    painter, drawn = paint(found, 1.0, np.pad(image, ((0, size[1] % 2), (0, size[0] % 2), (0, 0))))
    assert drawn.shape[:2] == painter.size[::-1]


def test_paint_image_draws_boxes_and_no_curve():
    found = result(track(LEFT, (0.0,)))
    image = paint_image(GREY, found)
    assert image.shape[1] == 640
    assert 360 < image.shape[0] < paint(found, 0.0)[1].shape[0]
    assert near(image.astype(int), PERSON_COLOURS[0]).any()
