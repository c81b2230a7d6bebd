import numpy as np
import pytest
import torch

from dfdetect.evaluation.subgroups import Look, Observer
from dfdetect.faces.detection import FaceDetector
from dfdetect.video.reader import read_frames


@pytest.fixture(scope="module")
def face(real_clip):
    """A tight crop of the person, who looks at the camera."""
    image = next(read_frames(real_clip, 2)).image
    (box,) = FaceDetector(torch.device("cpu")).detect([image])[0]
    left, top, right, bottom = map(round, box)
    return image[top:bottom, left:right]


def test_a_face_that_looks_at_the_camera(face):
    look = Observer().look(face)
    assert look.brightness == pytest.approx(face.mean())
    assert look.turn < 0.35


def test_darkness(face):
    observer = Observer()
    assert observer.look((0.2 * face).astype(np.uint8)).brightness < 35


def test_no_face():
    look = Observer().look(np.full((100, 100, 3), 90, np.uint8))
    assert look.brightness == 90
    assert look != Look(90.0, 0.0)
    assert np.isnan(look.turn)
