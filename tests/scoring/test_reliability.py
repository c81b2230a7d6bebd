import pytest

from dfdetect.faces.attributes import FaceAttributes
from dfdetect.scoring.reliability import BLURRED, COMPRESSED, DARK, SMALL, TURNED, find_warnings

GOOD = {"brightness": 100.0, "sharpness": 0.1, "turn": 0.05}


def warnings_of(height=200.0, frames=32, bits_per_pixel=0.05, **attributes):
    faces = [FaceAttributes(**GOOD | attributes)]
    return find_warnings([height], faces, frames, bits_per_pixel)


def test_find_warnings_has_none_for_usual_faces():
    assert warnings_of() == ()
    assert warnings_of(SMALL + 1, brightness=DARK, sharpness=BLURRED, turn=TURNED) == ()
    assert warnings_of(frames=2) == ()
    assert warnings_of(bits_per_pixel=COMPRESSED) == ()


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"height": SMALL}, "pixels high"),
        ({"brightness": DARK - 1}, "very dark"),
        ({"sharpness": 0.9 * BLURRED}, "blurred"),
        ({"turn": TURNED + 0.1}, "from the side"),
        ({"frames": 1}, "Only one frame"),
        ({"bits_per_pixel": 0.9 * COMPRESSED}, "strongly compressed"),
    ],
)
def test_find_warnings_is_one_sentence_for_each_condition(condition, words):
    (warning,) = warnings_of(**condition)
    assert words in warning
    assert warning.endswith(".")


def test_find_warnings_looks_at_the_usual_frame():
    dark, bright = FaceAttributes(**GOOD | {"brightness": 5.0}), FaceAttributes(**GOOD)
    assert find_warnings([200.0, 10.0, 200.0], [dark, bright, bright], 32) == ()
    assert len(find_warnings([10.0], [dark, dark, bright], 1)) == 3
