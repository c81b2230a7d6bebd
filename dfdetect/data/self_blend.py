"""Make self-blended images. Such an image is a fake that is made from a single REAL face.

The method is described by Shiohara & Yamasaki, "Detecting Deepfakes with Self-Blended Images",
CVPR 2022. A face and a copy of it are made to differ slightly in colours, sharpness, size and
position. The copy is then blended into the face through a soft mask. The fake has a seam, like a
face swap. A model must recognise the fake by the seam, because the person and the camera are those
of the REAL face.

The paper draws the mask around the landmarks of a face. Here, the mask has a random size and lies
near a fixed position. This is good enough, because the default crop rule puts the eyes, the nose
and the mouth at nearly the same positions in every crop.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch

# Ranges of the random values of each face; lengths are shares of the crop's side.
BRIGHTNESS = CONTRAST = (0.9, 1.1)
CHANNEL_SHIFT = 0.05
SATURATION = (0.8, 1.2)
HUE_DEGREES = 6
SHRINKING = (0.25, 0.7)
SHARPENING = (0.3, 1.2)
ZOOM = (0.95, 1.05)
SHIFT = 0.03
JITTER = 0.004
MASK_SHIFT = 0.06
CORNERS = 64
WAVES = np.arange(2, 6)
WAVE_HEIGHT = 0.08
SOFTNESS = (0.01, 0.06)
# Opacities of the blended copy. In most fakes, the copy is fully opaque.
OPACITIES = (0.5, 0.75, 1.0, 1.0, 1.0)
# For `blend_reconstruction`: share of the fakes that are the whole reconstruction.
WHOLE = 0.4
# Share of the other fakes (the blends) in which the reconstruction is changed before it is blended.
CHANGED = 0.4
# Share of the REAL faces that are made as blurred as the reconstruction.
SHRUNK_ALIKE = 0.5
Option = TypeVar("Option")


class Region(NamedTuple):
    """A part of the face. All values are shares of the crop's side.

    Attributes:
        x: Horizontal position of the centre.
        y: Vertical position of the centre.
        half_width: Half the width of the region. It is drawn at random from this range.
        half_height: Half the height of the region. It is drawn at random from this range.
    """

    x: float
    y: float
    half_width: tuple[float, float]
    half_height: tuple[float, float]


FACE = Region(0.50, 0.54, (0.28, 0.46), (0.30, 0.48))
INNER_FACE = Region(0.50, 0.54, (0.18, 0.30), (0.18, 0.32))
MOUTH = Region(0.50, 0.74, (0.14, 0.26), (0.08, 0.18))
EYES = Region(0.50, 0.35, (0.26, 0.40), (0.07, 0.14))
# Most methods replace the whole face; re-enactment and lip synchronisation change parts of it.
REGIONS = (FACE, FACE, FACE, FACE, INNER_FACE, INNER_FACE, MOUTH, EYES)


def self_blend(
    crops: torch.Tensor,
    generator: torch.Generator | None = None,
    regions: Sequence[Region] = REGIONS,
) -> torch.Tensor:
    """Return a fake: a REAL face into which a slightly different copy of the face is blended.

    All crops of a clip (successive crops of one face) get the same changes. Only the position of
    the copy jitters from crop to crop, by less than one percent of the crop's side.

    Args:
        crops: RGB uint8 of shape (3, size, size), or (time, 3, size, size) for a clip. The face
            must be in the middle, as in crops cut by the default `CropRule`.
        generator: Random generator, or None for torch's global generator.
        regions: Parts of the face. One part is chosen at random and blended.

    Returns:
        RGB uint8 of the same shape as `crops`.

    Example:
        >>> fake = self_blend(real, torch.Generator().manual_seed(0))
    """
    draw = _Draw(generator)
    clip = crops.reshape(-1, *crops.shape[-3:]).permute(0, 2, 3, 1).contiguous().numpy()
    changed = _change_look(clip, draw)
    # Either the part inside the seam or the part outside the seam gets the changed look.
    inner, outer = (changed, clip) if draw.chance() else (clip, changed)
    moved = _move(inner, draw)
    mask = _mask(crops.shape[-1], draw, regions) * draw.choose(OPACITIES)
    blended = [
        cv2.blendLinear(front, back, mask, 1 - mask)
        for front, back in zip(moved, outer, strict=True)
    ]
    return torch.from_numpy(np.stack(blended)).permute(0, 3, 1, 2).reshape(crops.shape)


def blend_reconstruction(
    real: torch.Tensor,
    reconstruction: torch.Tensor,
    side: int,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a REAL face, and a fake made from an autoencoder's reconstruction of the REAL face.

    The fake is either the whole reconstruction, or a blend. A blend shows the reconstruction inside
    a random mask, and the REAL face outside the mask. In some blends, the colours, sharpness, size
    and position of the reconstruction are slightly changed first.

    If `side` is less than `size`, the REAL face is also blurred in half of the cases: it is shrunk
    to `side` pixels and enlarged again. A model then cannot recognise the fake by its blur.

    Args:
        real: RGB uint8 of shape (3, size, size).
        reconstruction: RGB uint8 of shape (3, size, size), aligned with the REAL face.
        side: Side in pixels at which the reconstruction was made.
        generator: Random generator, or None for torch's global generator.

    Returns:
        The REAL face and the fake, both RGB uint8 of shape (3, size, size).
    """
    draw = _Draw(generator)
    outer, inner = (image.permute(1, 2, 0).contiguous().numpy() for image in (real, reconstruction))
    if side < outer.shape[0] and draw.number(0, 1) < SHRUNK_ALIKE:
        outer = _shrink_and_enlarge(outer, side)
    fake = inner
    if draw.number(0, 1) >= WHOLE:
        if draw.number(0, 1) < CHANGED:
            inner = _move(_change_look(inner[None], draw), draw)[0]
        mask = _mask(outer.shape[0], draw) * draw.choose(OPACITIES)
        fake = cv2.blendLinear(inner, outer, mask, 1 - mask)
    pair = (torch.from_numpy(image).permute(2, 0, 1).contiguous() for image in (outer, fake))
    return next(pair), next(pair)


class _Draw:
    """Draws random numbers from one generator."""

    def __init__(self, generator: torch.Generator | None):
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> np.ndarray:
        return low + (high - low) * torch.rand(shape, generator=self.generator).numpy()

    def number(self, low: float, high: float) -> float:
        return float(self.uniform(low, high))

    def chance(self) -> bool:
        return self.number(0, 1) < 0.5

    def choose(self, options: Sequence[Option]) -> Option:
        return options[int(torch.randint(len(options), (), generator=self.generator))]


def _change_look(clip: np.ndarray, draw: _Draw) -> np.ndarray:
    """Return a copy of a clip with changed colours. The copy is also blurred or sharpened."""
    contrast = draw.number(*CONTRAST)
    shift = draw.uniform(-CHANNEL_SHIFT, CHANNEL_SHIFT, 3) * 255
    levels = np.arange(256)[:, None] * draw.number(*BRIGHTNESS)
    levels = (levels - clip.mean()) * contrast + clip.mean() + shift
    table = levels.round().clip(0, 255).astype(np.uint8)[None]
    # OpenCV counts hue in steps of two degrees.
    turn = round(draw.number(-HUE_DEGREES, HUE_DEGREES) / 2)
    saturation = draw.number(*SATURATION)
    sharpening = draw.number(*SHARPENING) if draw.chance() else None
    small = max(1, round(clip.shape[1] * draw.number(*SHRINKING)))
    changed = []
    for image in clip:
        hsv = cv2.cvtColor(cv2.LUT(image, table), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + turn) % 180
        hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        changed.append(
            _shrink_and_enlarge(image, small) if sharpening is None else _sharpen(image, sharpening)
        )
    return np.stack(changed)


def _shrink_and_enlarge(image: np.ndarray, small: int) -> np.ndarray:
    shrunk = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def _sharpen(image: np.ndarray, amount: float) -> np.ndarray:
    return cv2.addWeighted(image, 1 + amount, cv2.GaussianBlur(image, (0, 0), 1.5), -amount, 0)


def _move(clip: np.ndarray, draw: _Draw) -> list[np.ndarray]:
    """Resize and shift all crops of a clip alike, and then shift each crop a little at random."""
    size = clip[0].shape[0]
    zoom, shift = draw.uniform(*ZOOM, 2), draw.uniform(-SHIFT, SHIFT, 2)
    jitter = draw.uniform(-JITTER, JITTER, len(clip), 2) * (len(clip) > 1)
    moved = []
    for image, offset in zip(clip, shift + jitter, strict=True):
        centre = (1 - zoom) * (size - 1) / 2 + offset * size
        matrix = np.column_stack([np.diag(zoom), centre])
        moved.append(cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE))
    return moved


def _mask(size: int, draw: _Draw, regions: Sequence[Region] = REGIONS) -> np.ndarray:
    """Return a mask with a wavy, soft edge for a region that is chosen at random from `regions`.

    The mask is float32 of shape (size, size), from 0 outside the region to 1 inside.
    """
    region = draw.choose(regions)
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    heights = draw.uniform(0, WAVE_HEIGHT, len(WAVES), 1)
    phases = draw.uniform(0, 2 * np.pi, len(WAVES), 1)
    edge = 1 + (heights * np.cos(WAVES[:, None] * angles + phases)).sum(axis=0)
    centre = np.array([region.x, region.y]) + draw.uniform(-MASK_SHIFT, MASK_SHIFT, 2)
    reach = draw.number(*region.half_width), draw.number(*region.half_height)
    corners = centre + edge[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach
    mask = np.zeros((size, size), np.float32)
    cv2.fillPoly(mask, [np.round(corners * size).astype(np.int32)], 1.0)
    return cv2.GaussianBlur(mask, (0, 0), max(0.5, draw.number(*SOFTNESS) * size))
