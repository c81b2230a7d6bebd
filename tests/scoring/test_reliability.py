import numpy as np
import pytest

from dfdetect.faces.attributes import FaceAttributes
from dfdetect.scoring.reliability import (
    BLURRED,
    COMPRESSED,
    DARK,
    DECODED,
    SMALL,
    TURNED,
    describe_damage,
    find_warnings,
)

GOOD = {"brightness": 100.0, "sharpness": 0.1, "turn": 0.05}


def warnings_of(height=200.0, frames=32, bits_per_pixel=0.05, share=1.0, **attributes):
    faces = [FaceAttributes(**GOOD | attributes)]
    return find_warnings([height], faces, frames, bits_per_pixel, share)


def test_find_warnings_has_none_for_usual_faces():
    assert warnings_of() == ()
    assert warnings_of(SMALL + 1, brightness=DARK, sharpness=BLURRED, turn=TURNED) == ()
    assert warnings_of(frames=2) == ()
    assert warnings_of(bits_per_pixel=COMPRESSED) == ()
    assert warnings_of(share=DECODED) == warnings_of(share=np.nan) == ()


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ({"height": SMALL}, "pixels high"),
        ({"brightness": DARK - 1}, "very dark"),
        ({"sharpness": 0.9 * BLURRED}, "blurred"),
        ({"turn": TURNED + 0.1}, "from the side"),
        ({"frames": 1}, "Only one frame"),
        ({"bits_per_pixel": 0.9 * COMPRESSED}, "strongly compressed"),
        ({"share": 2 / 32}, "Less than 7 % of the video could be decoded"),
    ],
)
def test_find_warnings_is_one_sentence_for_each_condition(condition, words):
    (warning,) = warnings_of(**condition)
    assert words in warning
    assert warning.endswith(".")


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "less than 1 %"), (0.499, "less than 50 %"), (0.5, ""), (1.0, ""), (np.nan, "")],
)
def test_describe_damage_of_less_than_a_half(share, text):
    assert describe_damage(share).startswith(text)
    assert bool(describe_damage(share)) == bool(text)


def test_find_warnings_looks_at_the_usual_frame():
    dark, bright = FaceAttributes(**GOOD | {"brightness": 5.0}), FaceAttributes(**GOOD)
    assert find_warnings([200.0, 10.0, 200.0], [dark, bright, bright], 32) == ()
    assert len(find_warnings([10.0], [dark, dark, bright], 1)) == 3
