"""What a detector says of a video, and of each face that was followed in it."""

from dataclasses import dataclass, field

# x1, y1, x2, y2 in pixels of the full frame.
Box = tuple[float, float, float, float]

OK = "ok"
# Why a video has no score: all that a `status` can say beside `ok`. Some are followed by details in
# brackets or after a colon. The README explains each of them.
MISSING = "no such video"
NO_FILE = "no such file"
NO_ACCESS = "not a readable file"
EMPTY = "the file is empty"
NO_VIDEO = "not a readable video"
NO_STREAM = "the file has no video stream"
NO_DECODER = "this FFmpeg has no decoder for its video stream"
NO_FRAME = "no frame can be decoded"
TOO_SLOW = "takes too long to decode"
TOO_LARGE = "needs too much memory to decode"
CRASHED = "its decoder crashed"
NO_FACE = "no face found"
FAILED = "failed"
OUT_OF_TIME = "no time was left for it"
NOT_SCORED = "interrupted before it was scored"

REASONS = (
    *(MISSING, NO_FILE, NO_ACCESS, EMPTY, NO_VIDEO, NO_STREAM, NO_DECODER, NO_FRAME, TOO_SLOW),
    *(TOO_LARGE, CRASHED, NO_FACE, FAILED, OUT_OF_TIME, NOT_SCORED),
)


@dataclass(frozen=True)
class TrackResult:
    """One face followed through a video.

    Attributes:
        probability: P(FAKE) of this face.
        times: Seconds since the first frame, of each sampled frame that shows the face.
        boxes: The face in each of them: x1, y1, x2, y2 in pixels.
        frame_probabilities: P(FAKE) of each of them alone.
    """

    probability: float
    times: list[float]
    boxes: list[Box]
    frame_probabilities: list[float]


@dataclass(frozen=True)
class VideoResult:
    """What the detector says of one video.

    Attributes:
        name: Base name of the file.
        probability: P(FAKE) strictly between 0 and 1, or None where there is no score.
        status: `ok`, or one of `REASONS`, why there is no score.
        tracks: One entry a person, in the order of appearance.
        timings: Seconds spent, by stage: `detect` (faces), `crop`, `classify` and `wait`, for
            frames to be decoded; in `total`; and beside that, in a thread of its own, `decode`.
    """

    name: str
    probability: float | None
    status: str
    tracks: list[TrackResult] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Number of sampled frames that show a face."""
        return len({time for track in self.tracks for time in track.times})
