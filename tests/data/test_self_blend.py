import pytest
import torch

from dfdetect.data.self_blend import self_blend
from dfdetect.faces.crops import to_tensor
from dfdetect.video.reader import read_frames


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def face(real_clip):
    frame = next(read_frames(real_clip, 2)).image
    return to_tensor(frame[100:320, 350:570])


def difference(first, second):
    return (first.int() - second.int()).abs().float().mean(dim=0)


def test_self_blend_gives_a_fake_that_looks_like_the_face(face):
    for seed in range(20):
        fake = self_blend(face, generator(seed))
        assert (fake.shape, fake.dtype) == (face.shape, torch.uint8)
        assert 0.1 < difference(fake, face).mean() < 30


def test_self_blend_depends_on_the_seed(face):
    assert torch.equal(self_blend(face, generator(1)), self_blend(face, generator(1)))
    assert not torch.equal(self_blend(face, generator(1)), self_blend(face, generator(2)))


def test_self_blend_changes_one_side_of_the_seam(face):
    """In some fakes, the corners of the crop are unchanged; in others, the face is unchanged."""
    untouched = 0
    for seed in range(20):
        corner = difference(self_blend(face, generator(seed)), face)[:8, :8]
        untouched += bool(corner.mean() < 0.5)
    assert 4 <= untouched <= 16


def test_self_blend_changes_all_frames_of_a_clip_alike(face):
    clip = torch.stack([face] * 6)
    fake = self_blend(clip, generator(3))
    assert fake.shape == clip.shape
    between = max(difference(fake[0], other).mean() for other in fake[1:])
    assert between < 0.5 * difference(fake[0], face).mean()
    assert not torch.equal(fake[0], fake[1])  # the blended face jitters a little
