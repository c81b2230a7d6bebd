import cv2
import numpy as np
import pytest
from facenet_pytorch import MTCNN

from dfdetect.faces.alignment import similarity
from dfdetect.faces.crops import cut_crops
from dfdetect.faces.geometry import CropFormat, CropRule
from dfdetect.video.reader import read_frames

# Positions of the eyes, the nose and the corners of the mouth in the crops of WS-DAN, as shares of
# the crop's side.
TEMPLATE = (
    *((122.5 / 320, 141.25 / 320), (197.5 / 320, 141.25 / 320), (0.5, 178.75 / 320)),
    *((137.5 / 320, 225.25 / 320), (182.5 / 320, 225.25 / 320)),
)


def test_similarity_finds_rotation_scaling_and_translation():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(5, 2))
    turn = 1.7 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    matrix = similarity(points, points @ turn.T + (3, -2))
    assert matrix == pytest.approx(np.column_stack([turn, (3, -2)]))


@pytest.fixture(scope="module")
def face(sample_data):
    """Return a frame, and the box and the landmarks that MTCNN finds for its face."""
    clip = sample_data / "train_sample_videos" / "ajqslcypsw.mp4"
    image = next(iter(read_frames(clip, 1))).image
    boxes, _, points = MTCNN(keep_all=False, device="cpu").detect(image, landmarks=True)
    return image, tuple(boxes[0].tolist()), points[0]


@pytest.mark.parametrize("angle", [0, 25])
def test_cut_crops_aligns_a_face_with_the_template(face, angle):
    image, box, points = face
    centre = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    turn = cv2.getRotationMatrix2D(centre, angle, 1.0)
    turned = cv2.warpAffine(image, turn, image.shape[1::-1])
    size = 320
    wanted = CropFormat(CropRule(border="zeros", template=TEMPLATE), size)
    plain = CropFormat(CropRule(), 64)
    crops = cut_crops(turned, box, [wanted, plain])
    assert crops[wanted].shape == (3, size, size)
    assert crops[plain].shape == (3, 64, 64)
    exact = similarity(points, np.array(TEMPLATE) * size)
    expected = cv2.warpAffine(image, exact, (size, size))
    ours = crops[wanted].permute(1, 2, 0).numpy().astype(float)
    shown = expected.any(axis=-1) & ours.any(axis=-1)
    assert np.corrcoef(ours[shown].ravel(), expected[shown].ravel())[0, 1] > 0.8


def test_crop_rule_refuses_templates_without_five_points():
    with pytest.raises(ValueError, match=r"crop\.template must be five points"):
        CropRule(template=TEMPLATE[:4])


def test_crop_rule_with_lists_equals_a_rule_with_tuples():
    assert CropRule(template=[list(point) for point in TEMPLATE]) == CropRule(template=TEMPLATE)
    assert hash(CropRule(template=TEMPLATE)) == hash(CropRule(template=list(TEMPLATE)))
