"""Augmentations that mimic what happens to faces between the camera and the detector."""

import cv2
import torch
from torch import nn
from torchvision.transforms import v2

PADDING = 24


class Rescale(nn.Module):
    """Shrink an image by a random factor and enlarge it again, as a small face in a clip.

    Args:
        smallest: The strongest shrinking, as a fraction of the side.
    """

    def __init__(self, smallest: float):
        super().__init__()
        self.smallest = smallest

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Rescale uint8 images of shape (..., 3, height, width), all by one factor."""
        size = image.shape[-2:]
        factor = torch.empty(()).uniform_(self.smallest, 1).item()
        small = [max(1, round(side * factor)) for side in size]
        shrunk = v2.functional.resize(image, small, antialias=True)
        return v2.functional.resize(shrunk, list(size))


class Compress(nn.Module):
    """Compress and decompress an image as JPEG.

    Args:
        quality: Lowest and highest quality, of 1 to 100.
    """

    def __init__(self, quality: tuple[int, int]):
        super().__init__()
        self.quality = quality

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Compress uint8 images of shape (..., 3, height, width), all at one quality."""
        lowest, highest = self.quality
        quality = int(torch.randint(lowest, highest + 1, ()))
        images = image.reshape(-1, *image.shape[-3:])
        return torch.stack([_compress(one, quality) for one in images]).view(image.shape)


def training_transform(input_size: int) -> v2.Transform:
    """Random framing, light and compression for uint8 RGB crops of shape (..., 3, height, width).

    Framing varies because a model is trained on one face detector's crops and used on another's:
    the ratio of their sizes spans 0.78-0.88 and their offset 0.01-0.13 of the face's height.

    Returns:
        A transform to uint8 images of shape (..., 3, input_size, input_size), which treats crops
        that are given together alike; its randomness comes from torch's global generator.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            # Repeated borders stand in for what lies outside the crop when it is moved.
            v2.Pad(PADDING, padding_mode="edge"),
            v2.RandomAffine(
                degrees=8,
                translate=(0.05, 0.05),
                scale=(0.9, 1.15),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            _TrimPadding(),
            v2.RandomApply([Rescale(smallest=0.3)], p=0.35),
            v2.Resize([input_size, input_size], antialias=True),
            v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)], p=0.7),
            v2.RandomGrayscale(p=0.03),
            v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 1.5))], p=0.1),
            v2.RandomApply([Compress(quality=(35, 95))], p=0.5),
        ]
    )


class _TrimPadding(nn.Module):
    """Cut off what `Pad` added, whatever the image's size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[..., PADDING:-PADDING, PADDING:-PADDING]


def _compress(image: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = image.permute(1, 2, 0).numpy()
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return torch.from_numpy(decoded[..., ::-1].copy()).permute(2, 0, 1)
