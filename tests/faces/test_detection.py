import cv2
import numpy as np
import pytest
import torch

from dfdetect.faces.detection import MTCNNDetector, NearbyFaceDetector, brighten
from dfdetect.faces.geometry import iou
from dfdetect.video.reader import read_frames


@pytest.fixture(scope="module")
def face_detector():
    return MTCNNDetector(torch.device("cpu"))


@pytest.fixture(scope="module")
def face(sample_data):
    frame = next(read_frames(sample_data / "test_videos" / "gpsxfxrjrr.mp4", 1))
    return frame.image


def test_detect_finds_the_face_where_it_is(face_detector, face):
    ((box,),) = face_detector.detect([face])
    by_eye = (365, 80, 560, 340)
    assert iou(box, by_eye) > 0.6


def test_detect_gives_boxes_in_pixels_of_the_image(face_detector, face):
    ((box,),) = face_detector.detect([face])
    large = cv2.resize(face, None, fx=4, fy=4)
    ((large_box,),) = face_detector.detect([large])
    assert iou(box, tuple(edge / 4 for edge in large_box)) > 0.8


def test_detect_accepts_images_of_mixed_sizes_and_an_empty_list(face_detector, face):
    small = cv2.resize(face, None, fx=0.5, fy=0.5)
    tiny = face[:10, :10]
    grey = np.full_like(face, 128)
    found = face_detector.detect([face, face, small, tiny, grey])
    assert [len(boxes) for boxes in found] == [1, 1, 1, 0, 0]
    assert face_detector.detect([]) == []


def test_detect_finds_dark_faces(face_detector, face):
    dark = cv2.convertScaleAbs(face, alpha=0.12)
    assert len(face_detector.detect([dark])[0]) == 1


def test_brighten_changes_only_dark_images():
    dark = np.linspace(0, 100, 4800).astype(np.uint8).reshape(40, 40, 3)
    assert brighten(dark).mean() > 2 * dark.mean()
    assert brighten(dark).max() < 255
    bright = np.linspace(0, 255, 4800).astype(np.uint8).reshape(40, 40, 3)
    assert brighten(bright) is bright
    assert brighten(np.zeros_like(dark)).max() == 0


def test_high_recall_finds_smaller_faces(face_detector, face):
    scene = np.full((1080, 1920, 3), 90, np.uint8)
    small = cv2.resize(face, None, fx=0.09, fy=0.09, interpolation=cv2.INTER_AREA)
    scene[500 : 500 + small.shape[0], 900 : 900 + small.shape[1]] = small
    assert face_detector.detect([scene]) == [[]]
    ((box,),) = MTCNNDetector.high_recall(torch.device("cpu")).detect([scene])
    assert 925 < box[0] < box[2] < 960


def test_detect_with_a_known_height_finds_faces_half_as_high(face_detector, face):
    ((box,),) = face_detector.detect([face])
    half = cv2.resize(face, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    ((small_box,),) = face_detector.detect([half], box[3] - box[1])
    assert iou(box, tuple(2 * edge for edge in small_box)) > 0.7


def test_detect_finds_known_faces_where_a_search_for_all_sizes_does(face_detector, face):
    ((box,),) = face_detector.detect([face])
    assert face_detector.detect([face], box[3] - box[1]) == [[pytest.approx(box)]]


@pytest.mark.parametrize("shift", [(0, 0), (0.25, 0), (-0.25, 0), (0, 0.2), (0, -0.2)])
def test_detect_nearby_finds_a_face_that_moved(face_detector, face, shift):
    ((box,),) = face_detector.detect([face])
    x, y = shift[0] * (box[2] - box[0]), shift[1] * (box[3] - box[1])
    moved = box[0] + x, box[1] + y, box[2] + x, box[3] + y
    ((found,),) = face_detector.detect_nearby([face], [[moved]])
    assert iou(found, box) > 0.8


def test_detect_nearby_returns_none_where_no_face_is(face_detector, face):
    ((box,),) = face_detector.detect([face])
    left, top, right, bottom = box
    beside = left + 300, top, right + 300, bottom
    outside = left + 5000, top, right + 5000, bottom
    ((one, two, three), none) = face_detector.detect_nearby(
        [face, face], [[beside, box, outside], []]
    )
    assert (one, three, none) == (None, None, [])
    assert iou(two, box) > 0.8


def test_detect_nearby_accepts_images_of_mixed_sizes_and_no_images(face_detector, face):
    ((box,),) = face_detector.detect([face])
    large = cv2.resize(face, None, fx=3, fy=3)
    places = [[box], [tuple(3 * edge for edge in box)]]
    ((small_box,), (large_box,)) = face_detector.detect_nearby([face, large], places)
    assert iou(small_box, tuple(edge / 3 for edge in large_box)) > 0.9
    assert face_detector.detect_nearby([], []) == []


def test_detect_nearby_finds_faces_that_are_dark_or_cut_by_the_border(face_detector, face):
    ((box,),) = face_detector.detect([face])
    dark = cv2.convertScaleAbs(face, alpha=0.12)
    assert iou(face_detector.detect_nearby([dark], [[box]])[0][0], box) > 0.7
    left, top, right, bottom = (round(edge) for edge in box)
    cut = np.ascontiguousarray(face[:, left + (right - left) // 8 :])
    edge = left + (right - left) // 8
    ((found,),) = face_detector.detect_nearby(
        [cut], [[(box[0] - edge, top, box[2] - edge, bottom)]]
    )
    assert iou(found, (0, top, box[2] - edge, bottom)) > 0.7


def test_mtcnn_detector_can_look_nearby(face_detector):
    assert isinstance(face_detector, NearbyFaceDetector)
