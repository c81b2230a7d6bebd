import pytest
import torch

from dfdetect.training.augment import Compress, Darken, Encode, Noise, Rescale, training_transform


def blob():
    image = torch.zeros(3, 80, 80, dtype=torch.uint8)
    image[:, 20:60, 20:60] = 180
    return image


@pytest.mark.parametrize("strength", ["light", "strong"])
@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 80, 60), (3, 300, 300), (4, 3, 64, 64)])
def test_training_transform_takes_crops_of_any_size(shape, strength):
    transform = training_transform(48, strength)
    for _ in range(10):
        image = transform(torch.zeros(shape, dtype=torch.uint8))
        assert image.shape == (*shape[:-3], 3, 48, 48)
        assert image.dtype == torch.uint8


def test_training_transform_keeps_the_face_in_the_picture():
    torch.manual_seed(0)
    for _ in range(30):
        image = training_transform(40)(blob()).float()
        assert image[:, 15:25, 15:25].mean() > 2 * image[:, :4, :4].mean() + 30


def test_training_transform_depends_only_on_the_seed():
    transform = training_transform(40)
    torch.manual_seed(5)
    first, second = transform(blob()), transform(blob())
    torch.manual_seed(5)
    assert torch.equal(transform(blob()), first)
    assert not torch.equal(first, second)


def test_rescale_removes_detail_and_keeps_the_size():
    torch.manual_seed(0)
    noise = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    small = Rescale(smallest=0.3)(noise)
    assert small.shape == noise.shape
    assert small.float().std() < 0.8 * noise.float().std()


def test_compress_changes_little_and_keeps_the_colours():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[0] = torch.arange(64) * 3
    image[2, 20:40] = 200
    good, poor = Compress((95, 95))(image).int(), Compress((10, 10))(image).int()
    assert good.shape == image.shape
    assert 0 < (good - image).abs().float().mean() < (poor - image).abs().float().mean() < 20
    assert good[:, 30, 60].tolist() == pytest.approx([180, 0, 200], abs=25)


def test_rescale_applies_the_transform_between():
    class Invert(torch.nn.Module):
        def forward(self, image):
            assert all(side % 2 == 0 and side < 64 for side in image.shape[-2:])
            return 255 - image

    torch.manual_seed(0)
    grey = torch.full((3, 63, 63), 55, dtype=torch.uint8)
    assert torch.equal(Rescale(smallest=0.3, between=Invert())(grey), 255 - grey)


@pytest.mark.parametrize(
    ("codec", "best", "usual", "worst"), [("h264", 10, 23, 50), ("mpeg2video", 2, 8, 31)]
)
def test_encode_changes_little_and_keeps_the_colours(codec, best, usual, worst):
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[0] = torch.arange(64) * 3
    image[2, 20:40] = 200
    good = Encode(codec, (best, best))(image).int()
    poor = Encode(codec, (worst, worst))(image).int()
    assert good.shape == image.shape
    assert 0 < (good - image).abs().float().mean() < (poor - image).abs().float().mean() < 40
    assert good[:, 30, 60].tolist() == pytest.approx([180, 0, 200], abs=25)
    clip = Encode(codec, (usual, usual))(torch.stack([image] * 3))
    assert clip.shape == (3, 3, 64, 64)
    odd = Encode(codec, (best, best))(image[:, :63, :61]).int()
    assert (odd - image[:, :63, :61]).abs().float().mean() < 10


def test_darken_and_noise_change_images():
    torch.manual_seed(0)
    image = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    for _ in range(10):
        dark = Darken(darkest=0.3)(image).float()
        assert 15 < dark.mean() <= 128
        assert dark.std() == 0
    noisy = Noise(strongest=8)(image).float()
    assert 0 < noisy.std() < 9
    assert noisy.mean() == pytest.approx(128, abs=1)
