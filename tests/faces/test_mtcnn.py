import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN

from dfdetect.faces.mtcnn import STEP, Cascade, pyramid, shrink
from dfdetect.video.reader import read_frames

THRESHOLDS = (0.6, 0.7, 0.9)


@pytest.fixture(scope="module")
def images(sample_data):
    """Return four frames: two of each of two videos, which show different people."""
    folder = sample_data / "train_sample_videos"
    clips = [folder / "ajqslcypsw.mp4", folder / "cknyxaqouy.mp4"]
    return [frame.image for clip in clips for frame in read_frames(clip, 2)]


@pytest.fixture
def cascade():
    return Cascade(torch.device("cpu"), THRESHOLDS)


def scales(image, smallest=0.0):
    return pyramid(*image.shape[:2], 24, smallest)


def test_find_finds_the_faces_that_facenet_pytorch_finds(cascade, images):
    search = MTCNN(keep_all=True, min_face_size=24, thresholds=list(THRESHOLDS))
    expected, _ = search.detect(np.stack(images))
    for boxes, others in zip(cascade.find(images, scales(images[0])), expected, strict=True):
        assert boxes.shape == (1, 4)
        assert np.allclose(boxes, others.astype(float), atol=0.1)


def test_find_gives_each_image_its_own_faces(cascade, images):
    grey = np.full_like(images[0], 128)
    found = cascade.find([grey, images[0], grey, images[3]], scales(grey))
    assert [boxes.shape for boxes in found] == [(0, 4), (1, 4), (0, 4), (1, 4)]
    (alone,) = cascade.find([images[3]], scales(grey))
    assert np.allclose(found[3], alone, atol=0.01)


def test_find_leaves_small_faces_out_where_they_are_not_looked_for(cascade, images):
    scene = np.full((540, 960, 3), 90, np.uint8)
    small = shrink(images[0], (96, 54))
    scene[100:154, 100:196] = small
    (found,) = cascade.find([scene], scales(scene))
    assert len(found) == 1
    height = float(found[0][3] - found[0][1])
    (found,) = cascade.find([scene], scales(scene, 4 * height))
    assert len(found) == 0


def test_find_finds_faces_at_the_border(cascade, images):
    image = images[0]
    ((left, top, right, bottom),) = cascade.find([image], scales(image))[0].round().astype(int)
    cut = np.ascontiguousarray(image[(3 * top + bottom) // 4 :, (3 * left + right) // 4 :])
    assert len(cascade.find([cut], scales(cut))[0]) == 1


def test_find_looks_at_inputs_of_few_sizes(cascade, images, monkeypatch):
    """The size of a batch is a multiple of `STEP`, at most `BOXES`; no answer depends on it."""
    expected = cascade.find(images, scales(images[0]))
    counts = []
    for network in (cascade.rnet, cascade.onet):
        network.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    monkeypatch.setattr("dfdetect.faces.mtcnn.BOXES", 2 * STEP)
    found = cascade.find(images, scales(images[0]))
    assert len(counts) > 2
    assert set(counts) <= {STEP, 2 * STEP}
    for boxes, others in zip(found, expected, strict=True):
        assert np.allclose(boxes, others, atol=0.01)


def test_pyramid_covers_all_sizes_from_the_smallest_face():
    whole = pyramid(540, 960, 24)
    assert whole[0] == 0.5
    assert 12 <= 540 * whole[-1] < 17
    bounded = pyramid(540, 960, 24, 100)
    assert whole[-len(bounded) :] == bounded
    assert 0.7 * 100 < 12 / bounded[0] <= 100
    assert pyramid(20, 960, 24) == []


def test_shrink_takes_the_mean_over_areas():
    stripes = np.tile(np.array([[[0], [240]]], np.uint8), (64, 32, 3))
    assert np.abs(shrink(stripes, (16, 16)).astype(int) - 120).max() <= 1
    assert shrink(stripes, (30, 20)).shape == (20, 30, 3)
    assert np.array_equal(shrink(stripes, (64, 64)), cv2.resize(stripes, (64, 64)))
