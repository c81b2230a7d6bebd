import numpy as np
import pytest
import torch

from dfdetect.evaluation.subgroups import FaceAttributeEstimator, FaceAttributes
from dfdetect.faces.detection import MTCNNDetector
from dfdetect.video.reader import read_frames


@pytest.fixture(scope="module")
def face(real_clip):
    """A tight crop of the person, who looks at the camera."""
    image = next(read_frames(real_clip, 2)).image
    (box,) = MTCNNDetector(torch.device("cpu")).detect([image])[0]
    left, top, right, bottom = map(round, box)
    return image[top:bottom, left:right]


def test_a_face_that_looks_at_the_camera(face):
    attributes = FaceAttributeEstimator().estimate(face)
    assert attributes.brightness == pytest.approx(face.mean())
    assert attributes.turn < 0.35


def test_darkness(face):
    estimator = FaceAttributeEstimator()
    assert estimator.estimate((0.2 * face).astype(np.uint8)).brightness < 35


def test_no_face():
    attributes = FaceAttributeEstimator().estimate(np.full((100, 100, 3), 90, np.uint8))
    assert attributes.brightness == 90
    assert attributes != FaceAttributes(90.0, 0.0)
    assert np.isnan(attributes.turn)
