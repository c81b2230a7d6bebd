from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from dfdetect import Status, TrackResult, VideoResult
from dfdetect.errors import ArgumentError
from dfdetect.reporting.figures import draw_curve, draw_faces, draw_frame
from dfdetect.video.reader import read_frames


def test_draw_frame_and_draw_curve_show_the_worst_moment_and_every_person(real_clip):
    times = [frame.time for frame in read_frames(real_clip, 4)]
    calm = TrackResult(0.1, times, [(10.0, 20.0, 60.0, 90.0)] * 4, [0.1] * 4)
    box = (365.0, 80.0, 560.0, 340.0)
    suspicious = TrackResult(0.7, times, [box] * 4, [0.5, 0.6, 0.95, 0.7])
    score = VideoResult(path=real_clip, name="clip.mp4", probability=0.7, tracks=[calm, suspicious])
    left, right = Figure().subplots(1, 2)
    draw_frame(left, real_clip, score, frames=4)
    draw_curve(right, score)
    assert left.images[0].get_array().shape == (360, 640, 3)
    assert [text.get_text() for text in left.texts] == ["0.10", "0.95"]
    assert [patch.get_bbox().extents.tolist() for patch in left.patches][1] == list(box)
    assert "0.70" in left.get_title()
    curves = [line.get_ydata().tolist() for line in right.lines[:2]]
    assert curves == [[0.1] * 4, [0.5, 0.6, 0.95, 0.7]]
    assert len(right.get_legend().get_texts()) == 2


def test_draw_faces_without_a_picture_says_so(real_clip):
    face = TrackResult(0.7, [100.0, 101.0], [(365.0, 80.0, 560.0, 340.0)] * 2, [0.7] * 2)
    score = VideoResult(path=real_clip, name="clip.mp4", probability=0.7, tracks=[face])
    axes = Figure().subplots()
    draw_faces(axes, real_clip, replace(score, frames_sampled=32))
    assert "no picture" in axes.get_xlabel()
    assert not axes.images


@pytest.mark.parametrize("draw", [draw_frame, draw_faces])
def test_draw_frame_and_draw_faces_refuse_a_result_without_faces(draw, real_clip):
    result = VideoResult.without_score(real_clip, "clip.mp4", Status.NO_FACE)
    with pytest.raises(ArgumentError, match="no face found"):
        draw(Figure().subplots(), real_clip, result)
