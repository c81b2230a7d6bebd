"""Keep a run within its time budget by sampling fewer frames per video if the time is short."""

import math
import re
from threading import Lock
from time import monotonic

from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.results import VideoResult

# Time reserved at the end for stopping the work on videos and for writing the last files. It is
# RESERVE_SECONDS or the share RESERVE_SHARE of the budget, whichever is longer.
RESERVE_SECONDS = 3.0
RESERVE_SHARE = 0.01
# Minimum number of frames that are sampled from a video, however short the time is.
FEWEST_FRAMES = 4
# Weight of the newest video in the moving averages of the measured times.
LATEST = 0.2
# Stages whose time is proportional to the number of sampled frames.
PER_FRAME = ("detect", "crop", "classify")
UNITS = {"h": 3600, "m": 60, "s": 1}


class OutOfTimeError(DfdetectError):
    """The time budget is used up, so the scoring of the current videos must stop."""


def parse_duration(text: str | float) -> float:
    """Return a duration in seconds.

    Args:
        text: A plain number, which means seconds, or a text with units, such as `8h30m`.

    Raises:
        ArgumentError: The text is not a duration, or the duration is not above 0 or not finite.

    Example:
        >>> parse_duration("8h30m")
        30600.0
    """
    number = r"(\d+(?:\.\d+)?)"
    parts = re.fullmatch("".join(f"(?:{number}{unit})?" for unit in UNITS), str(text).strip())
    if parts and any(parts.groups()):
        seconds = sum(
            float(part or 0) * unit
            for part, unit in zip(parts.groups(), UNITS.values(), strict=True)
        )
    else:
        try:
            seconds = float(text)
        except ValueError as error:
            raise ArgumentError(
                f"{text!r} is not a duration: write it as 8h30m, 45m or 90s"
            ) from error
    if not 0 < seconds < math.inf:
        raise ArgumentError(f"a duration must be above 0 and finite, not {text!r}")
    return seconds


class TimeBudget:
    """Divides the remaining time of a run among the videos that are not scored yet.

    The budget measures how long videos take. From this, it estimates how many frames of each video
    can be scored in the remaining time. Each new video gets this number of frames, but at least
    `FEWEST_FRAMES` and at most `frames`. Several threads may use one budget.

    Args:
        seconds: Time from now to the end of the run, in seconds.
        videos: Number of videos to score.
        frames: Number of frames to sample from each video if there is enough time.

    Attributes:
        thinned: Number of videos that were scored with fewer than `frames` frames.

    Example:
        >>> budget = TimeBudget(3600, videos=400, frames=32)
        >>> budget.frames()
        32
    """

    def __init__(self, seconds: float, videos: int, frames: int):
        self._end = monotonic() + seconds - max(RESERVE_SECONDS, RESERVE_SHARE * seconds)
        self._start: float | None = None
        self._left = videos
        self._most = frames
        self._work = 0.0
        self._running = 0
        self._latest = frames
        # Decoding takes the same time for any number of sampled frames, unlike all other stages.
        self._decoding = 0.0
        self._frame = 0.0
        self.thinned = 0
        self._lock = Lock()

    def check(self) -> None:
        """Raise `OutOfTimeError` if the time of the run is used up."""
        if monotonic() >= self._end:
            raise OutOfTimeError

    def frames(self) -> int:
        """Return how many frames are sampled from the next video.

        The method then counts this video as running, until `record` gets the video's result.
        """
        with self._lock:
            now = monotonic()
            if self._start is None:
                self._start = now
            running, self._running = self._running, self._running + 1
            if not self._frame:
                return self._most
            # Several threads score videos, so more than one second of work is done per second. On
            # average, half of the work on a running video is done.
            half_done = running / 2 * (self._decoding + self._latest * self._frame)
            speed = (self._work + half_done) / (now - self._start)
            affordable = speed * (self._end - now) / max(1, self._left)
            count = int((affordable - self._decoding) / self._frame)
            self._latest = min(self._most, max(FEWEST_FRAMES, count))
            return self._latest

    def allowance(self) -> "VideoAllowance":
        """Return the next video's part of the budget, and count this video as running."""
        return VideoAllowance(self.frames(), self._end - monotonic())

    def record(self, result: VideoResult, frames: int) -> None:
        """Update the measured times with the result of a video.

        Args:
            result: The detector's result for the video.
            frames: The number of frames that the method `frames` returned for the video.
        """
        decoding = result.timings.get("decode", 0.0)
        rest = sum(result.timings.get(stage, 0.0) for stage in PER_FRAME)
        with self._lock:
            self._left -= 1
            self._running -= 1
            self._work += decoding + rest
            if result.tracks:
                self.thinned += frames < self._most
                share = LATEST if self._frame else 1.0
                self._decoding += share * (decoding - self._decoding)
                self._frame += share * (rest / frames - self._frame)


class VideoAllowance:
    """One video's part of a time budget: a number of frames, and a time limit.

    The object can be sent to another process.

    Args:
        frames: Number of frames that are sampled from the video.
        seconds: Time limit for the work on the video, in seconds. The time starts when the object
            is created. The time for sending the object to another process is not counted.
    """

    def __init__(self, frames: int, seconds: float):
        self._frames = frames
        self._end = monotonic() + seconds

    def __reduce__(self) -> tuple:
        # The clocks of two machines differ, so the remaining seconds are sent.
        return VideoAllowance, (self._frames, self._end - monotonic())

    def check(self) -> None:
        """Raise `OutOfTimeError` if the time limit of the video is reached."""
        if monotonic() >= self._end:
            raise OutOfTimeError

    def frames(self) -> int:
        """Return how many frames are sampled from the video."""
        return self._frames
