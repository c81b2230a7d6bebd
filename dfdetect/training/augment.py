"""Augmentations: random changes of the framing, light, noise and compression of training crops."""

from fractions import Fraction
from typing import cast

import av
import numpy as np
import torch
from torch import nn
from torchvision.transforms import v2

from dfdetect.faces.crops import compress_jpeg, to_tensor

# Pixels that are added to each side of a crop before the crop is rotated, moved and resized.
PADDING = 24
# Names of codecs, which are also the names of their decoders, and the name of each encoder.
ENCODERS = {"h264": "libx264", "mpeg2video": "mpeg2video"}


class Rescale(nn.Module):
    """A transform that shrinks an image and enlarges it again, as if the face had been small.

    Args:
        smallest: Lowest factor by which the sides are multiplied. The factor is drawn at random
            between this value and 1.
        between: A transform that is applied to the shrunk image, such as compression. The height
            and the width of the shrunk image are even.
    """

    def __init__(self, smallest: float, between: nn.Module | None = None):
        super().__init__()
        self.smallest = smallest
        self.between = nn.Identity() if between is None else between

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return all images, rescaled by the same random factor.

        Input and output are uint8 of shape (..., 3, height, width).
        """
        size = image.shape[-2:]
        factor = torch.empty(()).uniform_(self.smallest, 1).item()
        small = [max(2, 2 * round(side * factor / 2)) for side in size]
        shrunk = v2.functional.resize(image, small, antialias=True)
        return v2.functional.resize(self.between(shrunk), list(size))


class Compress(nn.Module):
    """A transform that compresses an image as JPEG of random quality and decompresses it.

    Args:
        quality: Lowest and highest quality, on JPEG's scale from 1 to 100.
    """

    def __init__(self, quality: tuple[int, int]):
        super().__init__()
        self.quality = quality

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return all images, compressed with the same random quality and decompressed.

        Input and output are uint8 of shape (..., 3, height, width).
        """
        lowest, highest = self.quality
        quality = int(torch.randint(lowest, highest + 1, ()))
        images = image.reshape(-1, *image.shape[-3:])
        return torch.stack([_compress(one, quality) for one in images]).view(image.shape)


class Darken(nn.Module):
    """A transform that darkens an image by a random gamma curve and a random factor.

    Args:
        darkest: Lowest factor by which pixel values are multiplied. The factor is drawn at random
            between this value and 1.
    """

    def __init__(self, darkest: float):
        super().__init__()
        self.darkest = darkest

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return all images, darkened in the same way.

        Input and output are uint8 of shape (..., 3, height, width).
        """
        gamma, factor = torch.rand(2).tolist()
        factor = self.darkest + (1 - self.darkest) * factor
        levels = torch.linspace(0, 1, 256) ** (1 + gamma) * factor * 255
        return levels.round().to(torch.uint8)[image.long()]


class Noise(nn.Module):
    """A transform that adds Gaussian noise to each pixel, like a camera in poor light.

    Args:
        strongest: Maximum standard deviation, for pixel values of 0 to 255. The deviation is drawn
            at random between 0 and this value.
    """

    def __init__(self, strongest: float):
        super().__init__()
        self.strongest = strongest

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Add noise to the images, and return them. One strength is drawn for all images.

        Input and output are uint8 of shape (..., 3, height, width).
        """
        noise = torch.randn(image.shape) * torch.rand(()) * self.strongest
        return (image + noise).round().clamp(0, 255).to(torch.uint8)


class Encode(nn.Module):
    """A transform that encodes images as a video of random quality and decodes it.

    A single image is encoded as a key frame.

    Args:
        codec: `h264`, or `mpeg2video` (MPEG-2, the codec of old videos and of broadcasts).
        coarseness: Lowest and highest coarseness of the compression. For H.264, coarseness is the
            constant rate factor: 23 is the default of x264, and 51 is the worst quality. For
            MPEG-2, coarseness is the scale of the quantiser: 1 is the best quality, and 31 is the
            worst.
    """

    def __init__(self, codec: str, coarseness: tuple[int, int]):
        super().__init__()
        self.codec = codec
        self.coarseness = coarseness

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return all images, encoded with the same random quality and decoded.

        Input and output are uint8 of shape (..., 3, height, width).
        """
        lowest, highest = self.coarseness
        coarseness = int(torch.randint(lowest, highest + 1, ()))
        images = image.reshape(-1, *image.shape[-3:])
        height, width = image.shape[-2:]
        # Codecs need even sides: the last row and column are repeated, and later cut off.
        even = v2.functional.pad(images, [0, 0, width % 2, height % 2], padding_mode="edge")
        decoded = _encode(even, self.codec, coarseness)[..., :height, :width]
        return decoded.reshape(image.shape)


def training_transform(input_size: int, strength: str = "light") -> v2.Transform:
    """Return a transform that randomly changes framing, light and compression of RGB uint8 crops.

    Framing is the size and the position of the face in the crop. It is varied because face
    detectors frame the same face differently.

    Args:
        input_size: Side of the result in pixels.
        strength: `light` or `strong`. `strong` is meant for models that must work on videos of new
            sources, and needs long training runs. It varies the framing more, and adds shrinking to
            a fifth of the size, darkness, noise, occlusion and video codecs.

    Returns:
        A transform that takes crops of shape (..., 3, height, width) and returns uint8 of shape
        (..., 3, input_size, input_size). It changes all crops of one call in the same way, and
        draws random numbers from torch's global generator.
    """
    changes = _strong(input_size) if strength == "strong" else _light(input_size)
    return v2.Compose([v2.RandomHorizontalFlip(), *changes])


def matching_compression() -> nn.Module:
    """Return a transform that compresses crops at random, for training with reconstructions.

    A reconstruction lacks the compression artefacts of its REAL crop. A model could therefore learn
    that images without artefacts are FAKE (Chen et al., "Dual Data Alignment Makes AI-Generated
    Image Detector Easier Generalizable", NeurIPS 2025). To prevent this, both the REAL crop and the
    fake made from its reconstruction are compressed. They have the same seed (see
    `dfdetect.training.dataset.Item`), so both get the same codec and quality.
    """
    compression = v2.RandomChoice([Compress((40, 90)), Encode("h264", (18, 34))], p=[0.6, 0.4])
    return v2.RandomApply([compression], p=0.75)


def _framing(degrees: float, shift: float, zoom: tuple[float, float]) -> list[nn.Module]:
    # Two face detectors were compared on the same faces. The crops of one had 0.78 to 0.88 times
    # the size of the other's, and the centres of the crops were 0.01 to 0.13 face heights apart.
    affine = v2.RandomAffine(
        degrees, (shift, shift), zoom, interpolation=v2.InterpolationMode.BILINEAR
    )
    # The padding repeats the borders of a crop, so that a moved crop has no empty area.
    return [v2.Pad(PADDING, padding_mode="edge"), affine, _TrimPadding()]


def _light(size: int) -> list[nn.Module]:
    return [
        *_framing(8, 0.05, (0.9, 1.15)),
        v2.RandomApply([Rescale(smallest=0.3)], p=0.35),
        v2.Resize([size, size], antialias=True),
        v2.RandomApply([v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3)], p=0.7),
        v2.RandomGrayscale(p=0.03),
        v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 1.5))], p=0.1),
        v2.RandomApply([Compress(quality=(35, 95))], p=0.5),
    ]


def _strong(size: int) -> list[nn.Module]:
    colours = v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.4)
    compression = v2.RandomChoice(
        [Compress((25, 95)), Encode("h264", (18, 40)), Encode("mpeg2video", (2, 12))],
        p=[0.6, 0.2, 0.2],
    )
    # Sharpness differs more between sources than between REAL and FAKE, so models must not use it.
    # If a small face is compressed and then enlarged, the blocks of the compression become large.
    # Models must not use these large blocks either.
    sharpness = v2.RandomChoice(
        [
            Rescale(smallest=0.2, between=v2.RandomApply([compression], p=0.5)),
            v2.GaussianBlur(7, sigma=(0.3, 2.0)),
            v2.RandomAdjustSharpness(2.0, p=1.0),
        ],
        p=[0.6, 0.2, 0.2],
    )
    return [
        *_framing(10, 0.07, (0.85, 1.2)),
        v2.RandomApply([sharpness], p=0.45),
        v2.Resize([size, size], antialias=True),
        v2.RandomApply([colours], p=0.7),
        v2.RandomApply([v2.ColorJitter(hue=0.05)], p=0.2),
        v2.RandomApply([Darken(darkest=0.3)], p=0.15),
        v2.RandomGrayscale(p=0.05),
        v2.RandomApply([Noise(strongest=8)], p=0.2),
        v2.RandomApply([compression], p=0.5),
        v2.RandomErasing(p=0.15, scale=(0.02, 0.12), value=0),
    ]


class _TrimPadding(nn.Module):
    """A transform that cuts `PADDING` pixels off each side of images of any size."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[..., PADDING:-PADDING, PADDING:-PADDING]


def _compress(image: torch.Tensor, quality: int) -> torch.Tensor:
    return to_tensor(compress_jpeg(image.permute(1, 2, 0).numpy(), quality))


def _encode(images: torch.Tensor, codec: str, coarseness: int) -> torch.Tensor:
    """Encode images with a video codec, and return the decoded images.

    Input and output are uint8 of shape (n, 3, height, width). The class `Encode` explains
    `codec` and `coarseness`.
    """
    encoder = cast(av.VideoCodecContext, av.CodecContext.create(ENCODERS[codec], "w"))
    encoder.height, encoder.width = images.shape[-2:]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base = Fraction(1, 25)
    encoder.thread_count = 1
    if codec == "h264":
        encoder.options = {"crf": str(coarseness), "preset": "ultrafast", "tune": "zerolatency"}
    else:
        encoder.options = {"qmin": str(coarseness), "qmax": str(coarseness)}
    decoder = cast(av.VideoCodecContext, av.CodecContext.create(codec, "r"))
    decoder.thread_count = 1
    packets = []
    for image in images:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        packets += encoder.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24"))
    packets += encoder.encode(None)
    frames = [frame for packet in packets for frame in decoder.decode(packet)]
    frames += decoder.decode(None)
    decoded = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in frames]
    return torch.stack(decoded).permute(0, 3, 1, 2).contiguous()
