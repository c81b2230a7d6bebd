"""Turn heat maps into pictures and into descriptions in words.

A heat map says how much evidence for FAKE a detector sees in each part of a face.
"""

import errno
import json
import os
import tempfile
from base64 import b64decode, b64encode
from dataclasses import dataclass
from threading import Lock

import cv2
import numpy as np

from dfdetect.faces.crops import encode_jpeg
from dfdetect.results import HeatMap, VideoResult

# RGB colour that marks evidence for FAKE on the grey face, and the highest opacity of this colour.
COLOUR = (255, 40, 0)
STRENGTH = 0.7
JPEG_QUALITY = 80


def paint_heat_map(heat_map: HeatMap) -> np.ndarray:
    """Return a picture of a face with its heat map drawn over it.

    Parts of the face that give more evidence for FAKE are redder. The face itself is grey.

    Returns:
        RGB uint8, of the same shape as `heat_map.crop`.

    Example:
        >>> paint_heat_map(result.tracks[0].heat_maps[0]).shape
        (160, 160, 3)
    """
    height, width = heat_map.crop.shape[:2]
    # The cells of a heat map are much larger than pixels. Between the centres of the cells, the
    # values are therefore interpolated.
    values = cv2.resize(heat_map.values, (width, height), interpolation=cv2.INTER_LINEAR)
    share = STRENGTH * values[..., None].clip(0, 1)
    grey = cv2.cvtColor(heat_map.crop, cv2.COLOR_RGB2GRAY)[..., None]
    return np.rint((1 - share) * grey + share * np.array(COLOUR)).astype(np.uint8)


@dataclass(frozen=True)
class HeatMapPicture:
    """A picture of a face with a heat map drawn over it.

    Attributes:
        time: Time of the frame that shows the face, in seconds since the first frame of the video.
        jpeg: The picture, encoded as JPEG.
        description: Words that say in which part of the face the evidence for FAKE is strongest, as
            in `describe_heat_map`.
    """

    time: float
    jpeg: bytes
    description: str


def picture_heat_maps(result: VideoResult) -> list[list[HeatMapPicture]]:
    """Return pictures of all heat maps in a result, as one list for each person.

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
    """Return words that say in which part of a face the evidence for FAKE is strongest.

    This part contains the centre of the evidence: the mean position of the heat map's cells,
    weighted by their values. If no value is above 0, the words are `no evidence for FAKE`.

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
    """Return which of three parts of a heat map contains a position: 0, 1 or 2.

    The heat map is divided into three columns or three rows. The middle part is narrower than the
    other two, because the centre of the evidence is seldom far from the middle.

    Args:
        share: The position, from 0 (left or upper edge) to 1 (right or lower edge).

    Returns:
        0 for the left or upper part, 1 for the middle part, 2 for the right or lower part.
    """
    return int(share > 0.42) + int(share > 0.58)


class HeatMapStore:
    """Stores pictures of the heat maps of many videos in a temporary file, which saves memory.

    `put` stores pictures of a result's heat maps, and `get` returns the stored pictures. Several
    threads may use a store at the same time. The file is deleted when the `with` block ends.

    Example:
        >>> with HeatMapStore() as store:
        ...     store.put("a.mp4", detector.predict("a.mp4", heat_maps=3))
        ...     pictures = store.get("a.mp4")
    """

    def __init__(self) -> None:
        # Without a buffer, bytes that a full disk cannot take are not written later.
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with the store
        self._places: dict[str, tuple[int, int]] = {}  # position and size in bytes
        self._lock = Lock()

    def __enter__(self) -> "HeatMapStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def put(self, name: str, result: VideoResult) -> None:
        """Store pictures of a result's heat maps.

        Args:
            name: Name of the video. `get` finds the pictures by this name.
            result: The detector's result for the video.

        Raises:
            OSError: The temporary file cannot be written, for example because the disk is full.
        """
        pictures = [
            [(one.time, b64encode(one.jpeg).decode(), one.description) for one in maps]
            for maps in picture_heat_maps(result)
        ]
        content = json.dumps(pictures).encode()
        with self._lock:
            place = self._file.seek(0, os.SEEK_END)
            if self._file.write(content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._places[name] = place, len(content)

    def get(self, name: str) -> list[list[HeatMapPicture]] | None:
        """Return the pictures of a video, as one list for each person.

        If `put` has not stored pictures under the name, None is returned.

        Args:
            name: Name of the video, as in `put`.
        """
        if name not in self._places:
            return None
        with self._lock:
            place, size = self._places[name]
            self._file.seek(place)
            pictures = json.loads(self._file.read(size))
        return [
            [HeatMapPicture(time, b64decode(jpeg), text) for time, jpeg, text in maps]
            for maps in pictures
        ]
