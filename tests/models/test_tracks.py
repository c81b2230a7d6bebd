import torch
from torch import nn

from dfdetect.models.tracks import CropNetwork, track_logits


class Brightness(nn.Module):
    """A model whose logit is the mean of an image."""

    def forward(self, images):
        return images.mean(dim=(1, 2, 3))[:, None]


class Surprise(Brightness):
    """A model whose logit is the difference of an image from the mean of its track."""

    def forward_values(self, images):
        return self(images).expand(-1, 2)

    def track_logits(self, values):
        return values[:, 0] - values[:, 1].mean()


IMAGES = torch.tensor([1.0, 2.0, 3.0, 8.0]).reshape(4, 1, 1, 1).expand(4, 3, 8, 8)
TRACKS = [range(0, 3), [3]]


def test_track_logits_of_a_track_model_depend_on_the_track():
    values = CropNetwork(Surprise())(IMAGES)
    assert values.shape == (4, 2)
    assert track_logits(Surprise(), values, TRACKS).tolist() == [-1, 0, 1, 0]
    assert track_logits(Surprise(), values, [[0, 3], [2, 1]]).tolist() == [-3.5, -0.5, 0.5, 3.5]


def test_track_logits_of_another_model_are_its_logits():
    values = CropNetwork(Brightness())(IMAGES)
    assert track_logits(Brightness(), values, TRACKS).tolist() == [1, 2, 3, 8]
