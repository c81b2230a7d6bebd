"""Fakes made from real faces alone: self-blended images.

Shiohara & Yamasaki, "Detecting Deepfakes with Self-Blended Images", CVPR 2022: a face is blended
into itself under a soft mask, after its colours, its sharpness, its size and its place were changed
a little. What every face swap leaves is left, a seam and two sides that do not quite match, and
nothing that is peculiar to one method, camera or person.
"""

import math

import torch
from torch.nn.functional import affine_grid, grid_sample
from torchvision.transforms.v2 import functional

# Ranges of what is drawn for each face; lengths as shares of the crop's side.
BRIGHTNESS = CONTRAST = SATURATION = (0.9, 1.1)
HUE = (-0.015, 0.015)
CHANNEL_SHIFT = 0.03
SHRINKING = (0.25, 0.6)
SHARPENING = (1.5, 3.0)
ZOOM = (0.95, 1.05)
SHIFT = 0.03
JITTER = 0.004
WAVES = (2, 3, 4, 5)
WAVE_HEIGHT = 0.08
HALF_AXES = (0.26, 0.46)
CENTRE = 0.06
SOFTNESS = (0.01, 0.05)
# How much of the blended face is seen; most often all, as in the paper.
OPACITIES = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)


def self_blend(crops: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Make a fake of a real face.

    All crops of a clip are changed alike, as a swapped face stays swapped, but for a jitter of the
    blended face of some tenths of a percent from frame to frame.

    Args:
        crops: RGB uint8 of shape (3, size, size), or (time, 3, size, size) for a clip, with the
            face in the middle, as the crop rule of the challenge's faces has it.
        generator: Of all that is drawn; None for torch's global one.

    Returns:
        RGB uint8 of the same shape.

    Example:
        >>> fake = self_blend(real, torch.Generator().manual_seed(0))
    """
    draw = _Draw(generator)
    clip = crops.reshape(-1, *crops.shape[-3:])
    changed = _change_look(clip, draw)
    # Either side of the seam may be the one that looks otherwise.
    inner, outer = (changed, clip) if draw.chance() else (clip, changed)
    inner = _move(inner.float(), draw)
    mask = _mask(crops.shape[-1], draw) * draw.choose(OPACITIES)
    blended = mask * inner + (1 - mask) * outer.float()
    return blended.round().clamp(0, 255).to(torch.uint8).view(crops.shape)


class _Draw:
    """Random numbers of one generator."""

    def __init__(self, generator: torch.Generator | None):
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        return float(self.uniform(low, high))

    def chance(self) -> bool:
        return self.number(0, 1) < 0.5

    def choose(self, options: tuple[float, ...]) -> float:
        return options[int(torch.randint(len(options), (), generator=self.generator))]


def _change_look(clip: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Other colours, and other sharpness: blurred by shrinking, or sharpened."""
    clip = functional.adjust_brightness(clip, draw.number(*BRIGHTNESS))
    clip = functional.adjust_contrast(clip, draw.number(*CONTRAST))
    clip = functional.adjust_saturation(clip, draw.number(*SATURATION))
    clip = functional.adjust_hue(clip, draw.number(*HUE))
    shift = draw.uniform(-CHANNEL_SHIFT, CHANNEL_SHIFT, 3, 1, 1) * 255
    clip = (clip.float() + shift).clamp(0, 255).to(torch.uint8)
    if draw.chance():
        return functional.adjust_sharpness(clip, draw.number(*SHARPENING))
    size = clip.shape[-1]
    small = max(1, round(size * draw.number(*SHRINKING)))
    return functional.resize(
        functional.resize(clip, [small, small], antialias=True), [size, size], antialias=True
    )


def _move(clip: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Another size and place, the same in each frame but for the jitter."""
    times = len(clip)
    moves = torch.zeros(times, 2, 3)
    moves[:, 0, 0] = draw.number(*ZOOM)
    moves[:, 1, 1] = draw.number(*ZOOM)
    # Sides run from -1 to 1 here, so lengths are doubled.
    shifts = draw.uniform(-2 * SHIFT, 2 * SHIFT, 2)
    if times > 1:
        shifts = shifts + draw.uniform(-2 * JITTER, 2 * JITTER, times, 2)
    moves[:, :, 2] = shifts
    grid = affine_grid(moves, list(clip.shape), align_corners=False)
    return grid_sample(clip, grid, padding_mode="border", align_corners=False)


def _mask(size: int, draw: _Draw) -> torch.Tensor:
    """An ellipse with a wavy, soft edge; float32 of shape (size, size), 0 to 1."""
    steps = (torch.arange(size) + 0.5) / size - 0.5
    centre = draw.uniform(-CENTRE, CENTRE, 2)
    axes = draw.uniform(*HALF_AXES, 2)
    y, x = torch.meshgrid(
        (steps - centre[0]) / axes[0], (steps - centre[1]) / axes[1], indexing="ij"
    )
    angle = torch.atan2(y, x)
    edge = torch.ones(size, size)
    for wave in WAVES:
        height = draw.number(0, WAVE_HEIGHT)
        edge += height * torch.cos(wave * angle + draw.number(0, 2 * math.pi))
    inside = (torch.hypot(x, y) < edge).float()
    softness = max(0.5, draw.number(*SOFTNESS) * size)
    kernel = 2 * round(2 * softness) + 1
    return functional.gaussian_blur(inside[None], [kernel, kernel], [softness, softness])[0]
