import av
import numpy as np
import pytest

from dfdetect.video.planes import Planes

RED, BLUE = (255, 0, 0), (0, 0, 255)


def to_rgb(picture):
    return picture.frame.to_ndarray(format="rgb24").astype(int)


def black(width=64, height=48):
    return Planes.of_rgb(np.zeros((height, width, 3), np.uint8))


def halves(width, height):
    """Return a frame that is red on the left and blue on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = RED, BLUE
    return av.VideoFrame.from_ndarray(image, format="rgb24")


def test_fill_colours_only_the_rectangle():
    picture = black()
    picture.fill((10, 20, 30, 40), Planes.colour(RED))
    image = to_rgb(picture)
    assert np.abs(image[20:40, 10:30] - RED).max() < 12
    image[20:40, 10:30] = 0
    assert image.max() < 12


def test_outline_leaves_the_inside_unchanged():
    picture = black()
    picture.outline((10, 10, 50, 40), Planes.colour(RED), 4)
    image = to_rgb(picture)[..., 0]
    assert image[10:14, 10:50].min() > 240
    assert image[36:40, 10:50].min() > 240
    assert image[10:40, 10:14].min() > 240
    assert image[10:40, 46:50].min() > 240
    assert image[16:34, 16:44].max() < 12


def test_fill_and_paste_draw_only_inside_the_picture():
    picture = black()
    picture.fill((-10, -10, 4, 4), Planes.colour(RED))
    picture.fill((60, 44, 999, 999), Planes.colour(RED))
    picture.paste(Planes.of_rgb(np.full((20, 20, 3), 255, np.uint8)), 60, 4)
    image = to_rgb(picture)
    assert image[:4, :4, 0].min() > 240
    assert image[44:, 60:, 0].min() > 240
    assert image[4:24, 60:].min() > 240


def test_paste_draws_the_other_picture_at_its_place():
    picture, other = black(), Planes.of_rgb(np.full((8, 8, 3), BLUE, np.uint8))
    picture.paste(other, 20, 10)
    image = to_rgb(picture)
    assert np.abs(image[10:18, 20:28] - BLUE).max() < 12
    image[10:18, 20:28] = 0
    assert image.max() < 12


def test_place_keeps_the_pixels_of_a_frame_of_the_right_size():
    frame = halves(62, 46).reformat(format="yuv420p")
    picture = black()
    picture.place(frame, 62, 46)
    for plane, original in zip(picture.planes, Planes(frame).planes, strict=True):
        assert (plane[: original.shape[0], : original.shape[1]] == original).all()


@pytest.mark.parametrize("name", ["yuv444p", "gray", "rgba", "yuv420p10le", "yuvj420p"])
def test_place_accepts_frames_of_other_formats(name):
    picture = black()
    picture.place(halves(128, 96).reformat(format=name), 64, 48)
    image = to_rgb(picture)
    brighter = image[24, 16].sum() > image[24, 48].sum()
    assert brighter if name == "gray" else image[24, 16, 0] > 240 > 12 > image[24, 48, 0]


def test_place_repeats_the_last_row_and_column_of_odd_frames():
    white = av.VideoFrame.from_ndarray(np.full((47, 63, 3), 255, np.uint8), format="rgb24")
    picture = black()
    picture.place(white, 63, 47)
    assert to_rgb(picture).min() > 240


def test_left_part_is_cut_at_a_column():
    picture, other = black(), Planes.of_rgb(np.full((48, 64, 3), 255, np.uint8))
    picture.paste(other.left_part(20), 0, 0)
    image = to_rgb(picture)
    assert image[:, :20].min() > 240
    assert image[:, 20:].max() < 12
