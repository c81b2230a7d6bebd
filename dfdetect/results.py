"""Results of a detector for one video and for each tracked face, and a table of many results."""

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfdetect.errors import ArgumentError, InputError

if TYPE_CHECKING:
    import pandas as pd

# Bounding box: x1, y1, x2, y2 in pixels of the full frame.
Box = tuple[float, float, float, float]
# Number of the most suspicious moments of each face that texts and pages show.
MOMENTS = 3
# Minimum number of seconds between two moments of `TrackResult.most_suspicious`.
APART = 1.0
# Allowed entries of `OperatingPoints.fakes`. The name of an entry says what is new to the model in
# the counted videos.
NEW = ("people", "sources")
# Columns of `to_dataframe` and of details.csv.
COLUMNS = (
    *("filename", "probability", "verdict", "status", "people", "frames", "seconds"),
    *("message", "path"),
)


class Status(str, Enum):
    """Says that a video has a score, or why it has none.

    The values are stable: programs may compare them and store them.

    Attributes:
        sentence: The status in words.

    Example:
        >>> Status("no_face").sentence
        'no face found'
    """

    sentence: str

    OK = "ok", "ok"
    NO_SUCH_VIDEO = "no_such_video", "no such video"
    NO_SUCH_FILE = "no_such_file", "no such file"
    UNREADABLE_FILE = "unreadable_file", "not a readable file"
    EMPTY_FILE = "empty_file", "the file is empty"
    UNREADABLE_VIDEO = "unreadable_video", "not a readable video"
    UNREADABLE_IMAGE = "unreadable_image", "not a readable image"
    NO_VIDEO_STREAM = "no_video_stream", "the file has no video stream"
    ANNOTATED_COPY = "annotated_copy", "an annotated copy that dfdetect made"
    NO_DECODER = "no_decoder", "this FFmpeg has no decoder for its video stream"
    NO_FRAME = "no_frame", "no frame can be decoded"
    DECODER_TOO_SLOW = "decoder_too_slow", "takes too long to decode"
    DECODER_OUT_OF_MEMORY = "decoder_out_of_memory", "needs too much memory to decode"
    DECODER_CRASHED = "decoder_crashed", "its decoder crashed"
    NO_FACE = "no_face", "no face found"
    FAILED = "failed", "dfdetect failed"
    OUT_OF_TIME = "out_of_time", "no time was left for it"
    NOT_SCORED = "not_scored", "interrupted before it was scored"

    # A member is defined by a value and a sentence; `Status(value)` finds the member by the value.
    def __new__(cls, value: str, sentence: str = "") -> "Status":
        """Return a member of the enum: a string equal to `value`, with the attribute `sentence`."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member

    def __str__(self) -> str:
        return self.value

    def describe(self, details: str = "") -> str:
        """Return the status in words.

        If there are details, they follow in brackets.
        """
        return f"{self.sentence} ({details})" if details else self.sentence


class Verdict(str, Enum):
    """The decision of a detector on a video: real, uncertain or fake."""

    REAL = "real"
    UNCERTAIN = "uncertain"
    FAKE = "fake"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds that turn the probability of a video into a verdict.

    Args:
        uncertain: A probability above this threshold, but not above the threshold `fake`, gets the
            verdict `uncertain`. At most 5 % of the REAL videos on which the thresholds were fitted
            have a probability above `uncertain`.
        fake: A probability above this threshold gets the verdict `fake`. At most 1 % of the same
            REAL videos have a probability above `fake`.
        fakes: Counts of FAKE videos that the model was not trained on. The entry `people` is for
            videos in which only the people were new to the model. The entry `sources` is for videos
            from new sources, such as data sets. Each entry has three counts: `videos` (all FAKE
            videos), and `uncertain` and `fake` (the FAKE videos above the threshold of this name).
            If nothing was counted, `fakes` is empty.

    Raises:
        ArgumentError: A threshold is not between 0 and 1, `uncertain` is above `fake`, or `fakes`
            has an unknown entry or counts that contradict each other.
    """

    uncertain: float = 0.5
    fake: float = 0.5
    fakes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ArgumentError in the cases that the docstring of the class lists."""
        if not 0 <= self.uncertain <= self.fake <= 1:
            raise ArgumentError(
                "operating points must be between 0 and 1, and `uncertain` must not be above "
                f"`fake`; got {self}"
            )
        for new, counts in self.fakes.items():
            if (
                new not in NEW
                or set(counts) != {"videos", "uncertain", "fake"}
                or not 0 <= counts["fake"] <= counts["uncertain"] <= counts["videos"] > 0
            ):
                raise ArgumentError(f"operating points: impossible numbers of fakes: {self.fakes}")

    def verdict(self, probability: float) -> Verdict:
        """Return the verdict for a video's P(FAKE).

        Example:
            >>> OperatingPoints(uncertain=0.4, fake=0.8).verdict(0.6).value
            'uncertain'
        """
        if probability > self.fake:
            return Verdict.FAKE
        return Verdict.UNCERTAIN if probability > self.uncertain else Verdict.REAL


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Shows which parts of a face crop are evidence for FAKE.

    Attributes:
        time: Time of the frame that the crop was cut from, in seconds since the first frame of the
            video.
        crop: The face crop, in the size of the model's input, RGB uint8 of shape
            (height, width, 3).
        values: Evidence for FAKE in each cell of a regular grid over the crop, float32 of shape
            (rows, columns), from 0 (no evidence) to 1.

    Example:
        >>> heat_map = result.tracks[0].heat_maps[0]
        >>> heat_map.time, heat_map.crop.shape, heat_map.values.shape
        (4.2, (160, 160, 3), (5, 5))
    """

    time: float
    crop: np.ndarray
    values: np.ndarray

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, HeatMap):
            return NotImplemented
        return (
            self.time == other.time
            and np.array_equal(self.crop, other.crop)
            and np.array_equal(self.values, other.values)
        )

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        return f"HeatMap({self.time:.1f} s, {rows} x {columns})"

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON: the crop is a PNG in base64, and the values are lists."""
        import cv2  # decoder processes import this module, and start faster without OpenCV

        _, png = cv2.imencode(".png", np.ascontiguousarray(self.crop[..., ::-1]))
        return {
            "time": self.time,
            "crop": b64encode(png.tobytes()).decode("ascii"),
            "values": self.values.tolist(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "HeatMap":
        """Rebuild a heat map from `fields`, a dictionary that `to_dict` returned.

        Raises:
            InputError: The crop is not an image in base64.
        """
        import cv2

        try:
            png = np.frombuffer(b64decode(fields["crop"]), np.uint8)
            crop = cv2.imdecode(png, cv2.IMREAD_COLOR) if len(png) else None
        except ValueError:  # no base64
            crop = None
        if crop is None:
            raise InputError("the crop of a heat map is no image in base64")
        values = np.array(fields["values"], np.float32)
        return cls(fields["time"], cv2.cvtColor(crop, cv2.COLOR_BGR2RGB), values)


@dataclass(frozen=True, repr=False)
class TrackResult:
    """Result for one face that was tracked through a video.

    Attributes:
        probability: P(FAKE) of this face, strictly between 0 and 1.
        times: Times of the sampled frames that show the face, in seconds since the first frame of
            the video.
        boxes: Bounding box of the face in each frame that shows it: x1, y1, x2, y2 in pixels.
        frame_probabilities: P(FAKE) of the face in each frame that shows it. `probability` is
            computed from the same logits as these values.
        heat_maps: Heat maps of the moments that `most_suspicious` returns, in the same order. If no
            heat maps were requested, the list is empty.
    """

    probability: float
    times: list[float]
    boxes: list[Box]
    frame_probabilities: list[float]
    heat_maps: list[HeatMap] = field(default_factory=list)

    def __repr__(self) -> str:
        span = f" from {self.times[0]:.1f} to {self.times[-1]:.1f} s" if self.times else ""
        return f"TrackResult(probability={self.probability:.3f}, {len(self.times)} frames{span})"

    def most_suspicious(self, count: int = MOMENTS) -> list[tuple[float, float]]:
        """Return the moments with the highest P(FAKE), the highest first.

        Args:
            count: Maximum number of moments.

        Returns:
            For each moment, the time of a frame in seconds since the first frame of the video, and
            P(FAKE) of the face in this frame. The moments are at least one second apart. All but
            the first have at least the `probability` of the track, to three decimals.

        Example:
            >>> TrackResult(0.8, [0.0, 0.5, 2.0], [BOX] * 3, [0.7, 0.9, 0.8]).most_suspicious()
            [(0.5, 0.9), (2.0, 0.8)]
        """
        if not self.frame_probabilities:  # results from a cluster may lack these values
            return []
        return [
            (self.times[place], self.frame_probabilities[place])
            for place in pick_moments(self.times, self.frame_probabilities, count, self.probability)
        ]

    def to_dict(self, *, heat_maps: bool = False) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold.

        If `heat_maps` is true, the heat maps are included. Each heat map then includes its face
        crop, a PNG image in base64 of about 50 KB.
        """
        values = {name: value for name, value in vars(self).items() if name != "heat_maps"}
        if heat_maps:
            values["heat_maps"] = [one.to_dict() for one in self.heat_maps]
        return values

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "TrackResult":
        """Rebuild a track result from `fields`, a dictionary that `to_dict` returned."""
        return cls(
            **{
                **fields,
                "boxes": [tuple(box) for box in fields["boxes"]],
                "heat_maps": [HeatMap.from_dict(one) for one in fields.get("heat_maps", ())],
            }
        )


@dataclass(frozen=True, repr=False, kw_only=True)
class VideoResult:
    """Result for one video.

    Attributes:
        path: The file, or None if the frames were given in memory.
        name: Base name of the file, or an empty text if the frames were given in memory. If
            `dfdetect.predict` finds two videos with the same base name, each of them is named by
            its path below the given folder.
        probability: P(FAKE) strictly between 0 and 1, or None if the video has no score.
        verdict: The decision that follows from the probability, or None if there is no score or the
            detector's checkpoint has no operating points.
        operating_points: The thresholds that gave the verdict, or None if there is no verdict.
        aggregation: The names of two rules (see `dfdetect.scoring.aggregation.Aggregation`): the
            rule `frames` combined the frames of each track, and the rule `tracks` combined the
            tracks. None if there is no score.
        status: `Status.OK`, or the reason why there is no score.
        message: The status as a sentence, with details.
        tracks: One result for each tracked face, in the order of appearance.
        frames_sampled: Number of frames that were sampled from the video.
        warnings: Sentences that say why the probability is less reliable than usual.
        timings: Seconds spent in each stage: `decode`, `detect` (face detection), `crop`,
            `classify`, `wait` (for decoded frames), and `heat_maps` if heat maps were requested.
            `total` is the time from the start to the end of the prediction. It does not include
            `decode`, because another thread decodes at the same time.

    Example:
        >>> VideoResult(path=Path("a.mp4"), name="a.mp4", probability=0.93)
        VideoResult('a.mp4', probability=0.930, verdict=None, status=ok, 0 tracks, 0 frames)
    """

    path: Path | None
    name: str
    probability: float | None = None
    verdict: Verdict | None = None
    operating_points: OperatingPoints | None = None
    aggregation: Mapping[str, str] | None = None
    status: Status = Status.OK
    message: str = Status.OK.sentence
    tracks: list[TrackResult] = field(default_factory=list)
    frames_sampled: int = 0
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)

    @classmethod
    def without_score(
        cls, path: Path | None, name: str, status: Status, details: str = ""
    ) -> "VideoResult":
        """Return the result of a video that has no score.

        Example:
            >>> VideoResult.without_score(None, "a.mp4", Status.FAILED, "the disk is full").message
            'dfdetect failed (the disk is full)'
        """
        return cls(path=path, name=name, status=status, message=status.describe(details))

    @property
    def frames_with_faces(self) -> int:
        """Return the number of sampled frames that show a face."""
        return len({time for track in self.tracks for time in track.times})

    def __repr__(self) -> str:
        probability = "None" if self.probability is None else f"{self.probability:.3f}"
        return (
            f"VideoResult({self.name!r}, probability={probability}, verdict={self.verdict}, "
            f"status={self.status}, {counted(len(self.tracks), 'track')}, "
            f"{counted(self.frames_sampled, 'frame')})"
        )

    def to_dict(self, *, heat_maps: bool = False) -> dict[str, Any]:
        """Return the fields as a dictionary that JSON can hold.

        Args:
            heat_maps: Whether to include the heat maps of the tracks. Each heat map includes its
                face crop, a PNG image in base64 of about 50 KB.
        """
        points = self.operating_points
        return {
            **{name: value for name, value in vars(self).items() if name != "tracks"},
            "path": None if self.path is None else str(self.path),
            "verdict": None if self.verdict is None else self.verdict.value,
            "operating_points": None if points is None else dict(vars(points)),
            "status": self.status.value,
            "tracks": [track.to_dict(heat_maps=heat_maps) for track in self.tracks],
            "warnings": list(self.warnings),
            "timings": dict(self.timings),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "VideoResult":
        """Rebuild a video result from `fields`, a dictionary that `to_dict` returned.

        Example:
            >>> result = VideoResult(path=Path("a.mp4"), name="a.mp4", probability=0.93)
            >>> VideoResult.from_dict(result.to_dict()) == result
            True
        """
        path, verdict, points = (fields[name] for name in ("path", "verdict", "operating_points"))
        return cls(
            **{
                **fields,
                "path": None if path is None else Path(path),
                "verdict": None if verdict is None else Verdict(verdict),
                "operating_points": None if points is None else OperatingPoints(**points),
                "status": Status(fields["status"]),
                "tracks": [TrackResult.from_dict(track) for track in fields["tracks"]],
                "warnings": tuple(fields["warnings"]),
            }
        )


def to_dataframe(results: Iterable[VideoResult]) -> "pd.DataFrame":
    """Return a table with a row for each video.

    Columns: `filename` (the result's name), `probability` (P(FAKE), or missing), `verdict`,
    `status`, `people` (number of tracks), `frames` (number of sampled frames that show a face),
    `seconds` (spent on the video), `message` and `path`.

    Example:
        >>> to_dataframe(detector.predict_videos(["a.mp4", "b.mp4"])).to_csv("results.csv")
    """
    import pandas as pd  # decoder processes import this module, and start faster without pandas

    rows = [
        {
            "filename": result.name,
            "probability": result.probability,
            "verdict": None if result.verdict is None else result.verdict.value,
            "status": result.status.value,
            "people": len(result.tracks),
            "frames": result.frames_with_faces,
            "seconds": round(result.timings.get("total", 0.0), 3),
            "message": result.message,
            "path": None if result.path is None else str(result.path),
        }
        for result in results
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def pick_moments(
    times: Sequence[float], probabilities: Sequence[float], count: int, least: float
) -> list[int]:
    """Return the positions of the frames with the highest P(FAKE).

    Any two of the returned positions are at least one second apart.

    Args:
        times: Time of each frame in seconds.
        probabilities: P(FAKE) of each frame.
        count: Maximum number of frames.
        least: P(FAKE) of the track. Frames below it, to three decimals, are left out, except for
            the frame with the highest P(FAKE).

    Returns:
        Positions of the frames in `times`, in the order of falling P(FAKE).

    Example:
        >>> pick_moments([0.0, 0.5, 2.0, 4.0], [0.7, 0.9, 0.8, 0.1], 3, 0.5)
        [1, 2]
    """
    chosen: list[int] = []
    for place in sorted(range(len(times)), key=lambda place: -probabilities[place]):
        if chosen and round(probabilities[place], 3) < round(least, 3):
            break
        if len(chosen) < count and all(abs(times[place] - times[one]) >= APART for one in chosen):
            chosen.append(place)
    return chosen


def counted(number: int, noun: str) -> str:
    """Return a number and a noun.

    The noun gets an `s` unless the number is 1.

    Example:
        >>> counted(1, "frame"), counted(2, "frame")
        ('1 frame', '2 frames')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
