"""Boxes -> crops: squares that are cut from frames and resized, for models and for people."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import functional

from dfdetect.faces.geometry import CropFormat, CropRule, interpolate_box
from dfdetect.results import Box, VideoResult
from dfdetect.video.isolated import DecoderPool

# Seconds and pictures of one person's face.
Strip = list[tuple[float, np.ndarray]]
STRIP = 8
FACE_PIXELS = 112
# Side of the pictures of faces / height of the box.
FACE_MARGIN = 1.3


def cut_crop(image: np.ndarray, square: tuple[float, float, float], size: int) -> torch.Tensor:
    """Cut a square from an image and resize it; what lies outside repeats the image's border.

    Args:
        image: RGB uint8 of shape (height, width, 3).
        square: Left edge, top edge and side in pixels.
        size: Side of the result in pixels.

    Returns:
        RGB uint8 tensor of shape (3, size, size).
    """
    return resize_crop(_cut(image, square), size)


def cut_crops(
    image: np.ndarray, box: Box, formats: Iterable[CropFormat]
) -> dict[CropFormat, torch.Tensor]:
    """Cut the crops of one face that several models take; each square is cut once.

    Args:
        image: RGB uint8 of shape (height, width, 3).
        box: The box of the face: x1, y1, x2, y2 in pixels.
        formats: Which crops are wanted.

    Returns:
        For each format an RGB uint8 tensor of shape (3, size, size).
    """
    squares: dict[CropRule, torch.Tensor] = {}
    crops = {}
    for one in formats:
        if one.rule not in squares:
            squares[one.rule] = _cut(image, one.rule.square(box))
        crops[one] = resize_crop(squares[one.rule], one.size)
    return crops


def _cut(image: np.ndarray, square: tuple[float, float, float]) -> torch.Tensor:
    left, top, side = square
    offsets = np.arange(max(1, round(side)))
    rows = np.clip(round(top) + offsets, 0, image.shape[0] - 1)
    columns = np.clip(round(left) + offsets, 0, image.shape[1] - 1)
    return to_tensor(image[rows[:, None], columns])


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Turn an RGB uint8 image of shape (height, width, 3) into a tensor (3, height, width)."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def resize_crop(crop: torch.Tensor, size: int) -> torch.Tensor:
    """Resize a uint8 crop (3, height, width) to (3, size, size), bilinear with antialiasing."""
    return functional.resize(crop, [size, size], antialias=True)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an RGB uint8 image of shape (height, width, 3) as JPEG of a quality of 1 to 100."""
    pixels = np.ascontiguousarray(image[..., ::-1])
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode an RGB uint8 image of shape (height, width, 3) as JPEG and decode it again."""
    decoded = cv2.imdecode(
        np.frombuffer(encode_jpeg(image, quality), dtype=np.uint8), cv2.IMREAD_COLOR
    )
    assert decoded is not None  # it was encoded a line above
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def cut_faces(
    video: str | Path, result: VideoResult, decoders: DecoderPool, count: int = STRIP
) -> list[Strip]:
    """Pictures of each person's face at some moments, evenly spread over a video.

    Args:
        video: The file.
        result: What the detector said of it.
        decoders: Read the video.
        count: Number of moments; those that do not show the person are left out.

    Returns:
        For each person, seconds since the first frame and an RGB uint8 picture of shape (112, 112,
        3).

    Raises:
        VideoError: The video cannot be read.
    """
    strips: list[Strip] = [[] for _ in result.tracks]
    for frame in decoders.read_frames(video, count):
        for strip, track in zip(strips, result.tracks, strict=True):
            box = interpolate_box(track.times, track.boxes, frame.time)
            if box is not None:
                crop = cut_crop(frame.image, _square(box), FACE_PIXELS)
                strip.append((frame.time, crop.permute(1, 2, 0).numpy()))
    return strips


def _square(box: Box) -> tuple[float, float, float]:
    left, top, right, bottom = box
    side = FACE_MARGIN * (bottom - top)
    return (left + right - side) / 2, (top + bottom - side) / 2, side
