"""Turn heat maps into pictures that people can read."""

import json
import os
import tempfile
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from threading import Lock

import cv2
import numpy as np

from dfdetect.faces.crops import encode_jpeg
from dfdetect.results import HeatMap, VideoResult

# RGB colour of the evidence over the grey face, and its opacity where the evidence is strongest.
COLOUR = (255, 40, 0)
STRENGTH = 0.7
JPEG_QUALITY = 80


def paint_heat_map(heat_map: HeatMap) -> np.ndarray:
    """Draw a heat map over the face that it explains.

    The face is grey, so that its own colours cannot be mistaken for evidence. The redder a place
    is, the stronger is its evidence for FAKE.

    Returns:
        RGB uint8, as large as the crop.

    Example:
        >>> paint_heat_map(result.tracks[0].heat_maps[0]).shape
        (160, 160, 3)
    """
    height, width = heat_map.crop.shape[:2]
    # Smooth between the centres of the cells, which are much larger than pixels.
    values = cv2.resize(heat_map.values, (width, height), interpolation=cv2.INTER_LINEAR)
    share = STRENGTH * values[..., None].clip(0, 1)
    grey = cv2.cvtColor(heat_map.crop, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint((1 - share) * grey + share * np.array(COLOUR)).astype(np.uint8)


@dataclass(frozen=True)
class HeatMapPicture:
    """A heat map, painted.

    Attributes:
        time: Seconds since the first frame.
        jpeg: The picture.
        description: Where the evidence for FAKE is, in words.
    """

    time: float
    jpeg: bytes
    description: str


def picture_heat_maps(result: VideoResult) -> list[list[HeatMapPicture]]:
    """Paint the heat maps of each person.

    Example:
        >>> picture_heat_maps(detector.predict("a.mp4", heat_maps=1))[0][0].description
        'strongest in the lower middle'
    """
    return [
        [
            HeatMapPicture(
                one.time, encode_jpeg(paint_heat_map(one), JPEG_QUALITY), describe_heat_map(one)
            )
            for one in track.heat_maps
        ]
        for track in result.tracks
    ]


def describe_heat_map(heat_map: HeatMap) -> str:
    """Return a description, in words, of the place with most of the evidence.

    Example:
        >>> describe_heat_map(HeatMap(0.0, crop, np.array([[0, 0], [0, 1]], np.float32)))
        'strongest in the lower right'
    """
    values = heat_map.values.clip(0)
    total = float(values.sum())
    if not total:
        return "no evidence for FAKE"
    down, across = (
        float((values * (place + 0.5) / size).sum()) / total
        for place, size in zip(np.indices(values.shape), values.shape, strict=True)
    )
    row = ("upper", "central", "lower")[_third(down)]
    column = ("left", "middle", "right")[_third(across)]
    return f"strongest in the {row} {column}"


def _third(share: float) -> int:
    """Return the third (0, 1 or 2) of a side in which the centre of the evidence (0 to 1) lies.

    The middle third is narrow, because the centre is seldom far from the middle.
    """
    return int(share > 0.42) + int(share > 0.58)


class HeatMapStore:
    """Painted heat maps of many videos, in a temporary file instead of in memory.

    Several threads may add to a store.

    Example:
        >>> with HeatMapStore() as store:
        ...     result = store.take("a.mp4", detector.predict("a.mp4", heat_maps=3))
        ...     pictures = store.get("a.mp4")
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the store
        self._places: dict[str, int] = {}
        self._lock = Lock()

    def __enter__(self) -> "HeatMapStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def take(self, name: str, result: VideoResult) -> VideoResult:
        """Keep the heat maps of a result, and return it without them."""
        pictures = [
            [(one.time, b64encode(one.jpeg).decode(), one.description) for one in maps]
            for maps in picture_heat_maps(result)
        ]
        with self._lock:
            self._places[name] = self._file.seek(0, os.SEEK_END)
            self._file.write(json.dumps(pictures).encode() + b"\n")
        return replace(result, tracks=[replace(one, heat_maps=[]) for one in result.tracks])

    def get(self, name: str) -> list[list[HeatMapPicture]] | None:
        """Return the pictures of a video, for each person, or None if it was never added."""
        if name not in self._places:
            return None
        with self._lock:
            self._file.seek(self._places[name])
            pictures = json.loads(self._file.readline())
        return [
            [HeatMapPicture(time, b64decode(jpeg), text) for time, jpeg, text in maps]
            for maps in pictures
        ]
