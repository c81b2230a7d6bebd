import pytest
import torch

from dfdetect.training.augment import Compress, Rescale, training_transform


def blob():
    image = torch.zeros(3, 80, 80, dtype=torch.uint8)
    image[:, 20:60, 20:60] = 180
    return image


@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 80, 60), (3, 300, 300)])
def test_any_crop_becomes_the_input(shape):
    image = training_transform(48)(torch.zeros(shape, dtype=torch.uint8))
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.uint8


def test_the_face_stays_in_the_picture():
    torch.manual_seed(0)
    for _ in range(30):
        image = training_transform(40)(blob()).float()
        assert image[:, 15:25, 15:25].mean() > 2 * image[:, :4, :4].mean() + 30


def test_the_seed_decides():
    transform = training_transform(40)
    torch.manual_seed(5)
    first, second = transform(blob()), transform(blob())
    torch.manual_seed(5)
    assert torch.equal(transform(blob()), first)
    assert not torch.equal(first, second)


def test_rescaling_removes_detail_and_keeps_the_size():
    torch.manual_seed(0)
    noise = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    small = Rescale(smallest=0.3)(noise)
    assert small.shape == noise.shape
    assert small.float().std() < 0.8 * noise.float().std()


def test_compression_changes_little_and_keeps_the_colours():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[0] = torch.arange(64) * 3
    image[2, 20:40] = 200
    good, poor = Compress((95, 95))(image).int(), Compress((10, 10))(image).int()
    assert good.shape == image.shape
    assert 0 < (good - image).abs().float().mean() < (poor - image).abs().float().mean() < 20
    assert good[:, 30, 60].tolist() == pytest.approx([180, 0, 200], abs=25)
