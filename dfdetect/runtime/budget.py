"""A time by which a run has to end, and how many frames each video may have until then."""

import re
from threading import Lock
from time import monotonic

from dfdetect.errors import ArgumentError, DfdetectError
from dfdetect.results import VideoResult

# Kept back for the videos in hand to stop, and for the last files to be written.
RESERVE_SECONDS = 3.0
RESERVE_SHARE = 0.01
FEWEST_FRAMES = 4
# Part of what is known of the speed that the latest video makes up.
LATEST = 0.2
PER_FRAME = ("detect", "crop", "classify")
UNITS = {"h": 3600, "m": 60, "s": 1}


class OutOfTimeError(DfdetectError):
    """The time is out; what is in hand is to be given up."""


def parse_duration(text: str | float) -> float:
    """Seconds of a duration: a number of them, or hours, minutes and seconds.

    Raises:
        ArgumentError: It is no duration, or not above 0.

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
                f"{text!r} is no duration: write it as 8h30m, 45m or 90s"
            ) from error
    if not seconds > 0:
        raise ArgumentError(f"a duration must be above 0, not {text!r}")
    return seconds


class TimeBudget:
    """Shares the time that is left out to the videos that are left.

    Decoding takes the same time however many frames are sampled, and the rest grows with them: as
    videos are scored, both are measured, and those after them get as many frames as fit. May be
    used by several threads.

    Args:
        seconds: From now until the run has to have ended.
        videos: Number of videos to score.
        frames: Of each video, where there is time enough.

    Attributes:
        thinned: Number of videos that were scored by fewer frames.

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
        self._in_hand = 0
        self._latest = frames
        self._decoding = 0.0
        self._frame = 0.0
        self.thinned = 0
        self._lock = Lock()

    def check(self) -> None:
        """Raise `OutOfTimeError` when the time is out."""
        if monotonic() >= self._end:
            raise OutOfTimeError

    def frames(self) -> int:
        """How many frames to sample from the next video."""
        with self._lock:
            now = monotonic()
            if self._start is None:
                self._start = now
            in_hand, self._in_hand = self._in_hand, self._in_hand + 1
            if not self._frame:
                return self._most
            # Videos are scored side by side, so work goes on faster than the clock; what is in
            # hand is half done in the mean.
            half_done = in_hand / 2 * (self._decoding + self._latest * self._frame)
            speed = (self._work + half_done) / (now - self._start)
            affordable = speed * (self._end - now) / max(1, self._left)
            count = int((affordable - self._decoding) / self._frame)
            self._latest = min(self._most, max(FEWEST_FRAMES, count))
            return self._latest

    def allowance(self) -> "VideoAllowance":
        """The next video's part, to be kept to by another process."""
        return VideoAllowance(self.frames(), self._end - monotonic())

    def record(self, result: VideoResult, frames: int) -> None:
        """Learn from a video of which so many frames were sampled."""
        decoding = result.timings.get("decode", 0.0)
        rest = sum(result.timings.get(stage, 0.0) for stage in PER_FRAME)
        with self._lock:
            self._left -= 1
            self._in_hand -= 1
            self._work += decoding + rest
            if result.tracks:
                self.thinned += frames < self._most
                share = LATEST if self._frame else 1.0
                self._decoding += share * (decoding - self._decoding)
                self._frame += share * (rest / frames - self._frame)


class VideoAllowance:
    """One video's part of a budget, which can be sent to another process.

    Args:
        frames: How many to sample.
        seconds: From now, or from when it arrives in another process, to when to give up.
    """

    def __init__(self, frames: int, seconds: float):
        self._frames = frames
        self._end = monotonic() + seconds

    def __reduce__(self) -> tuple:
        # Clocks of two machines have nothing to do with each other.
        return VideoAllowance, (self._frames, self._end - monotonic())

    def check(self) -> None:
        """Raise `OutOfTimeError` when the time is out."""
        if monotonic() >= self._end:
            raise OutOfTimeError

    def frames(self) -> int:
        """How many frames to sample."""
        return self._frames
