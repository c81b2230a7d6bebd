"""Small image autoencoders, and a discriminator for training some of them.

The autoencoders imitate the generators that make talking heads and re-enacted faces. A generator
leaves traces in its images. The traces depend on the generator's upsampling, on the size of its
latent (the compressed image), and on its training loss. The autoencoders differ in all three.
"""

from dataclasses import dataclass

import torch
from torch import nn

from dfdetect.errors import ArgumentError

GROUPS = 8
UPSAMPLINGS = ("nearest", "bilinear", "transposed", "shuffle")


@dataclass(frozen=True)
class AutoencoderSpec:
    """The design of an autoencoder.

    The latent is the compressed image, which the encoder returns and the decoder takes.

    Args:
        upsampling: How the decoder doubles the height and width of features. `nearest` and
            `bilinear` interpolate before a convolution. `transposed` is a transposed convolution
            (Zeiler et al. 2010). `shuffle` is a pixel shuffle (Shi et al. 2016).
        stride: How many times higher and wider the image is than the latent: 2, 4, 8 or another
            power of two.
        latent_channels: Number of channels of the latent. Fewer channels lose more of the image.
        width: Number of channels of the features that have the height and width of the image. It
            must be a multiple of 4. All smaller features have `2 * width` channels.
        adversarial: Whether training also uses a discriminator.
    """

    upsampling: str
    stride: int
    latent_channels: int
    width: int = 32
    adversarial: bool = False


class Autoencoder(nn.Module):
    """A convolutional encoder and decoder without skip connections between them.

    The network takes and returns float32 RGB images of shape (batch, 3, height, width) with values
    from -1 to 1. Height and width must be multiples of `spec.stride`.

    Raises:
        ArgumentError: `spec.upsampling` is unknown, `spec.stride` is not a power of two above 1, or
            `spec.width` is not a multiple of 4.

    Example:
        >>> net = Autoencoder(AutoencoderSpec("shuffle", stride=8, latent_channels=16))
        >>> net(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(self, spec: AutoencoderSpec):
        super().__init__()
        doublings = spec.stride.bit_length() - 1
        if spec.upsampling not in UPSAMPLINGS or spec.stride != 2**doublings or not doublings:
            raise ArgumentError(
                f"an autoencoder needs one of {', '.join(UPSAMPLINGS)} and a stride of 2, 4, 8..., "
                f"not {spec.upsampling!r} and {spec.stride}"
            )
        if spec.width <= 0 or 2 * spec.width % GROUPS:
            raise ArgumentError(
                f"an autoencoder needs a width that is a multiple of 4, not {spec.width}"
            )
        wide = 2 * spec.width
        encoder: list[nn.Module] = [nn.Conv2d(3, spec.width, 3, padding=1)]
        channels = spec.width
        for _ in range(doublings):
            encoder += [nn.Conv2d(channels, wide, 4, stride=2, padding=1), ResidualBlock(wide)]
            channels = wide
        self.encoder = nn.Sequential(*encoder, nn.Conv2d(wide, spec.latent_channels, 1))
        decoder: list[nn.Module] = [nn.Conv2d(spec.latent_channels, wide, 3, padding=1)]
        for step in range(doublings):
            channels = spec.width if step == doublings - 1 else wide
            decoder += [ResidualBlock(wide), _enlarge(spec.upsampling, wide, channels)]
        self.decoder = nn.Sequential(
            *decoder, nn.SiLU(), nn.Conv2d(spec.width, 3, 3, padding=1), nn.Tanh()
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the reconstructions of images."""
        return self.decoder(torch.tanh(self.encoder(images)))


class ResidualBlock(nn.Module):
    """A convolution with a residual connection: the input is added to the output.

    Group normalisation (Wu & He 2018) and a SiLU come before the convolution.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.change = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the input plus the output of the convolution."""
        return values + self.change(values)


class PatchDiscriminator(nn.Module):
    """A network that says whether each patch of an image is real or a reconstruction.

    The design is the patch discriminator of Isola et al. 2017. The network takes RGB images of
    shape (batch, 3, height, width) with values from -1 to 1.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(GROUPS, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return a logit for each patch, shape (batch, 1, height / 8, width / 8).

        A logit above 0 says that the patch comes from a real image. A logit below 0 says that the
        patch comes from a reconstruction.
        """
        return self.layers(images)


def _enlarge(upsampling: str, channels: int, out: int) -> nn.Module:
    """Return a layer that doubles height and width and has `out` output channels."""
    if upsampling == "transposed":
        return nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1)
    if upsampling == "shuffle":
        return nn.Sequential(nn.Conv2d(channels, 4 * out, 3, padding=1), nn.PixelShuffle(2))
    interpolate = nn.Upsample(scale_factor=2, mode=upsampling)
    return nn.Sequential(interpolate, nn.Conv2d(channels, out, 3, padding=1))
