import cv2
import numpy as np
import pytest
import torch

from dfdetect.data.faceset import FaceSet
from dfdetect.evaluation.subgroups import measure_crop
from dfdetect.faces.attributes import ATTRIBUTE_FORMAT, measure_face
from dfdetect.faces.crops import cut_crops
from dfdetect.faces.detection import MTCNNDetector
from dfdetect.video.reader import read_frames


@pytest.fixture(scope="module")
def face(real_clip):
    """Return a crop of a person who looks at the camera."""
    image = next(read_frames(real_clip, 2)).image
    (box,) = MTCNNDetector(torch.device("cpu")).detect([image])[0]
    crop = cut_crops(image, box, [ATTRIBUTE_FORMAT])[ATTRIBUTE_FORMAT]
    return crop.permute(1, 2, 0).numpy()


def test_measure_face_of_a_frontal_face(face):
    attributes = measure_face(face)
    assert attributes.brightness == pytest.approx(face.mean())
    assert attributes.turn < 0.2
    assert 0.05 < attributes.sharpness < 0.5


def test_measure_face_tells_darkness_from_blur(face):
    plain = measure_face(face)
    dark = measure_face((0.2 * face).astype(np.uint8))
    assert dark.brightness < 0.25 * plain.brightness
    assert dark.sharpness == pytest.approx(plain.sharpness, rel=0.3)
    blurred = measure_face(cv2.GaussianBlur(face, (0, 0), 4))
    assert blurred.sharpness < 0.5 * plain.sharpness
    assert blurred.brightness == pytest.approx(plain.brightness, abs=2)


def test_measure_face_of_a_mirrored_face_has_the_same_turn(face):
    mirrored = np.ascontiguousarray(face[:, ::-1])
    assert measure_face(mirrored).turn == pytest.approx(measure_face(face).turn, abs=0.1)


@pytest.mark.corpus
def test_measure_face_gives_profiles_a_large_turn(corpus):
    faces = FaceSet.read(corpus / "dfdc_faces" / "val.csv")
    for row in np.flatnonzero(faces.table["id"].isin(["mpyxwanaqt", "pywweersld", "uqognreaor"])):
        assert measure_crop(faces.image(row)).turn > 0.5


def test_measure_face_of_a_flat_picture_is_finite():
    attributes = measure_face(np.full((160, 160, 3), 90, np.uint8))
    assert (attributes.brightness, attributes.sharpness) == (90, 0)
    assert np.isfinite(attributes.turn)
