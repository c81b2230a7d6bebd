"""Cut faces from frames, and resize the crops, for models and for reports."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from dfdetect.faces.alignment import align, find_landmarks
from dfdetect.faces.geometry import CropFormat, CropRule, ResizeRule, interpolate_box
from dfdetect.results import Box, VideoResult
from dfdetect.video.isolated import DecoderPool

# Pictures of one person's face, each with its time in seconds.
Strip = list[tuple[float, np.ndarray]]
# Default number of pictures in a strip, and their side in pixels.
STRIP = 8
FACE_PIXELS = 112
# Each picture of a strip shows a square around a face. The side of the square, divided by the
# height of the face's box, is this number.
FACE_MARGIN = 1.3
DEFAULT_RESIZE = ResizeRule()
PILLOW = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def cut_crop(image: np.ndarray, square: tuple[float, float, float], size: int) -> torch.Tensor:
    """Cut a square part from an image, and resize this part.

    Where the square reaches beyond the image, the result repeats the image's border.

    Args:
        image: RGB uint8 of shape (height, width, 3).
        square: Left edge, top edge and side of the part in pixels.
        size: Side of the result in pixels.

    Returns:
        RGB uint8 tensor of shape (3, size, size).
    """
    left, top, side = square
    return resize_crop(to_tensor(_cut(image, (left, top, side, side), "repeat")), size)


def cut_crops(
    image: np.ndarray, box: Box, formats: Iterable[CropFormat]
) -> dict[CropFormat, torch.Tensor]:
    """Return the crops of one face in several formats, for example for the models of an ensemble.

    Args:
        image: RGB uint8 of shape (height, width, 3).
        box: The box of the face: x1, y1, x2, y2 in pixels.
        formats: The formats of the crops to cut.

    Returns:
        A dictionary from each format to its crop: an RGB uint8 tensor of shape (3, height, width).
    """
    parts: dict[CropRule, torch.Tensor] = {}
    points: np.ndarray | None = None
    crops = {}
    for one in formats:
        if one.rule.template is not None:
            points = _landmarks(image, box) if points is None else points
            crops[one] = to_tensor(align(image, points, one))
            continue
        if one.rule not in parts:
            part = _cut(image, one.rule.rectangle(box), one.rule.border)
            parts[one.rule] = to_tensor(part)
        crops[one] = resize_crop(parts[one.rule], one.size, one.resize)
    return crops


def _landmarks(image: np.ndarray, box: Box) -> np.ndarray:
    """Return a face's five landmarks, of shape (5, 2): x and y in pixels of `image`."""
    x1, y1, x2, y2 = box
    side = max(1, round(max(x2 - x1, y2 - y1)))
    corner = round((x1 + x2 - side) / 2), round((y1 + y2 - side) / 2)
    return find_landmarks(_cut(image, (*corner, side, side), "repeat")) * side + corner


def _cut(
    image: np.ndarray, rectangle: tuple[float, float, float, float], border: str
) -> np.ndarray:
    left, top, width, height = rectangle
    rows = round(top) + np.arange(max(1, round(height)))
    columns = round(left) + np.arange(max(1, round(width)))
    inside = [
        (numbers >= 0) & (numbers < most)
        for numbers, most in zip((rows, columns), image.shape[:2], strict=True)
    ]
    if all(part.all() for part in inside):  # slices are much faster than arrays of indexes
        return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].copy()
    if border == "cut" and all(part.any() for part in inside):
        rows, columns = rows[inside[0]], columns[inside[1]]
    near_rows = np.clip(rows, 0, image.shape[0] - 1)
    near_columns = np.clip(columns, 0, image.shape[1] - 1)
    part = image[near_rows[:, None], near_columns]
    if border == "zeros":
        part[~(inside[0][:, None] & inside[1])] = 0
    return part


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Return a uint8 image (height, width, 3) as a uint8 tensor of shape (3, height, width)."""
    # torch warns about arrays that cannot be written to, such as arrays made from Pillow images.
    image = np.require(image, requirements=("C", "W"))
    return torch.from_numpy(image).permute(2, 0, 1)


def resize_crop(crop: torch.Tensor, size: int, rule: ResizeRule = DEFAULT_RESIZE) -> torch.Tensor:
    """Resize a crop to the size of a model's input.

    Args:
        crop: uint8 of shape (3, height, width).
        size: Height of the result in pixels.
        rule: The rule by which the crop is resized. It determines the width of the result. The
            default makes a square, by bilinear interpolation with antialiasing.

    Returns:
        uint8 of shape (3, size, width).
    """
    if rule.jpeg is not None:
        side, quality = rule.jpeg
        square = _resize(crop, [side, side], rule.interpolation)
        crop = to_tensor(compress_jpeg(square.permute(1, 2, 0).numpy(), quality))
    height, width = size, rule.width(size)
    if rule.fit == "pad":
        scales = height / crop.shape[1], width / crop.shape[2]
        # One side of the crop fills the input. `int` could make this side one pixel too short.
        inner = [
            wanted if scale == min(scales) else max(1, int(min(scales) * side))
            for wanted, scale, side in zip((height, width), scales, crop.shape[1:], strict=True)
        ]
        return _centred(_resize(crop, inner, rule.interpolation), height, width)
    return _resize(crop, [height, width], rule.interpolation)


def resize_crops(crops: torch.Tensor, size: int, rule: ResizeRule = DEFAULT_RESIZE) -> torch.Tensor:
    """Resize each of several crops as `resize_crop` does.

    Args:
        crops: uint8 of shape (crops, 3, height, width).
        size: Height of the results in pixels.
        rule: The rule by which the crops are resized, as in `resize_crop`.

    Returns:
        uint8 of shape (crops, 3, size, width).
    """
    return torch.stack([resize_crop(crop, size, rule) for crop in crops])


def _resize(crop: torch.Tensor, sides: list[int], interpolation: str) -> torch.Tensor:
    if interpolation in PILLOW:
        return functional.resize(crop, sides, PILLOW[interpolation], antialias=True)
    method = cv2.INTER_LINEAR
    if interpolation == "area_or_cubic":
        shrinks = max(sides) <= max(crop.shape[1:])
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    image = np.ascontiguousarray(crop.permute(1, 2, 0).numpy())
    return to_tensor(cv2.resize(image, (sides[1], sides[0]), interpolation=method))


def _centred(crop: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a black image of the given height and width, with the crop in its middle."""
    result = torch.zeros(3, height, width, dtype=crop.dtype)
    top, left = (height - crop.shape[1]) // 2, (width - crop.shape[2]) // 2
    result[:, top : top + crop.shape[1], left : left + crop.shape[2]] = crop
    return result


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """Encode an RGB uint8 image (height, width, 3) as JPEG, with a quality of 1 to 100."""
    pixels = np.ascontiguousarray(image[..., ::-1])
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def compress_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode an image as JPEG, decode the JPEG, and return the decoded image.

    Both images are RGB uint8 of shape (height, width, 3). The argument `quality` is 1 to 100.
    """
    decoded = cv2.imdecode(
        np.frombuffer(encode_jpeg(image, quality), dtype=np.uint8), cv2.IMREAD_COLOR
    )
    assert decoded is not None  # the line above encoded it
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB)


def cut_faces(
    video: str | Path, result: VideoResult, decoders: DecoderPool, count: int = STRIP
) -> list[Strip]:
    """Return pictures of each person's face at evenly spaced moments of a video.

    Args:
        video: The video file.
        result: The detector's result for the video.
        decoders: The decoder pool that reads the video.
        count: Number of moments in the whole video. A person who is not seen at a moment has no
            picture for this moment. A person who is seen at none of them has pictures of up to
            `count` other moments.

    Returns:
        One list per person, in the order of `result.tracks`. Each item of a list holds a time in
        seconds since the first frame, and an RGB uint8 picture of shape (112, 112, 3).

    Raises:
        VideoError: The video cannot be read.
    """
    strips = _cut_faces(video, result, decoders, count)
    if not all(strips) and result.frames_sampled > count:
        finer = _cut_faces(video, result, decoders, result.frames_sampled)
        strips = [strip or more[:count] for strip, more in zip(strips, finer, strict=True)]
    return strips


def _cut_faces(
    video: str | Path, result: VideoResult, decoders: DecoderPool, count: int
) -> list[Strip]:
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
