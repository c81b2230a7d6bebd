"""Read evenly spaced frames of a video, or the only frame of an image, as RGB arrays with times.

The reader first lists the packets (compressed frames) of the video, which takes milliseconds. Their
time stamps tell which frames the file really holds, even if its header is wrong. Which frames are
then sampled depends on the video:

- A long video with enough key frames (see `read_frames`): only key frames are sampled and decoded.
- A video with enough I and P frames: only these are sampled. The decoder skips frames that no other
  frame refers to, which halves the decoding time of videos of the Deepfake Detection Challenge.
- Any other video: all frames are decoded.

The reader never opens another file or address to which the video refers. Otherwise, a playlist with
the suffix of a video could make it open any file or address.
"""

import errno
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from dfdetect.defaults import DEFAULT_FRAMES
from dfdetect.errors import ArgumentError, InputError
from dfdetect.results import Status
from dfdetect.video.discovery import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import cv2
    import PIL.Image

try:
    import av

    HAS_AV = True
except ImportError:  # OpenCV reads most files too, but decodes all frames
    HAS_AV = False
    av = None  # type: ignore[assignment]

# Without this argument, PyAV 17 and later start threads for each conversion to RGB. Starting the
# threads takes longer than the conversion. Earlier versions of PyAV do not have the argument.
ONE_THREAD = {"threads": 1} if HAS_AV and int(av.__version__.split(".")[0]) >= 17 else {}
# The decoder skips frames if the video has at least this many I and P frames per requested frame.
SPARE_FRAMES = 2
# A video with more frames than this (two minutes at 25 per second) is long. If a long video has at
# least SPARE_FRAMES key frames per requested frame, only its key frames are decoded.
LONG_VIDEO = 3000
# Maximum number of FFmpeg's threads, and maximum size in bytes of all frames that these threads
# decode at once.
MAX_THREADS = 16
THREADS_BYTES = 2**30
# Number of channels of an RGB image.
RGB = 3
# This number stands for a missing time stamp, as in FFmpeg. PyAV uses None instead.
NO_STAMP = np.iinfo(np.int64).min
# Maximum number of pixels in a frame: twice as many as in 8K.
MAX_PIXELS = 2**26
# Which frames the decoder skips: none, those that no other frame refers to, or all but key frames.
# Not all B frames may be skipped: in videos of the encoder x264, a P frame may refer to a B frame.
Skip: TypeAlias = Literal["DEFAULT", "NONREF", "NONKEY"]
# The formats that FFmpeg may recognise. Playlists and images are not among them.
FORMATS = "asf,avi,dv,flv,gif,h264,hevc,ivf,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,rm"
# The image formats that Pillow may recognise.
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
# Comment in the metadata of annotated copies. The reader refuses annotated copies, because the
# boxes that are drawn on them would change the scores of the faces.
ANNOTATED = "annotated by dfdetect"
# The comment of an annotated copy lies in its index, at the start of the file. Even the index of a
# video of several hours has fewer bytes than this number.
INDEX_BYTES = 2**26
# Details of the status UNREADABLE_VIDEO if FFmpeg opened the file, but found no video in it.
NO_VIDEO = "it may be cut off, or no video: get it again"
OPEN_OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
# The environment variable from which OpenCV takes such options.
OPENCV_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_OPENCV = Lock()


class VideoError(InputError):
    """No frame of a video or image file can be read.

    Attributes:
        path: The file.
        status: The reason why no frame can be read.
        details: A message from the operating system or FFmpeg, or an empty text.
    """

    def __init__(self, path: str | Path, status: Status, details: str = ""):
        super().__init__(f"{path}: {status.describe(details)}")
        self.path = Path(path)
        self.status = status
        self.details = details


@dataclass(frozen=True)
class Frame:
    """One frame of a video.

    Attributes:
        time: Seconds since the first frame.
        image: RGB uint8 of shape (height, width, 3), upright.
        number: Index of the frame in the video, from 0.
        bits_per_pixel: Size of the compressed video stream in bits, divided by the number of pixels
            in all frames of the video. It is NaN for an image, for a frame that does not come from
            a file, and for a video that was read without PyAV.
        share: Share of the video that the frame stands for: 1/32 for each of 32 requested frames,
            less if the file breaks off early, and 0 for a damaged frame. It is NaN for an image and
            for a frame that does not come from a file.
    """

    time: float
    image: np.ndarray
    number: int = 0
    bits_per_pixel: float = np.nan
    share: float = np.nan


def read_frames(
    path: str | Path,
    num_frames: int = DEFAULT_FRAMES,
    *,
    indices: Sequence[int] | None = None,
    threads: int = 0,
) -> Iterator[Frame]:
    """Yield evenly spaced frames of a video, or frames with given numbers, in order of time.

    Only one frame at a time is in memory. If a video has fewer than `num_frames` frames, all of its
    frames are yielded. Frames that cannot be decoded are left out.

    If a video has more than 3,000 frames and at least `2 * num_frames` key frames, evenly spaced
    key frames are yielded. This does not apply if `indices` is given.

    From an image, one frame with the time 0 is yielded, upright according to the image's EXIF data.

    Args:
        path: Any video file that FFmpeg reads, or a JPEG, PNG or WebP image whose name ends in
            `.jpg`, `.jpeg`, `.png` or `.webp`.
        num_frames: Number of evenly spaced frames, at least 1.
        indices: Numbers of the frames to read, counted from 0, in increasing order. None means that
            evenly spaced frames are read. Numbers beyond the last frame are ignored.
        threads: Number of frames that are decoded at once, each on one core. 0 means that FFmpeg
            chooses the number. The frames of a damaged file may depend on this number.

    Raises:
        VideoError: The file is missing, is empty, is neither a video nor an image, or is a copy
            that dfdetect annotated; or no frame can be decoded.
        ArgumentError: `num_frames` is below 1.

    Example:
        >>> [round(frame.time, 1) for frame in read_frames("ten_seconds.mp4", 4)]
        [1.2, 3.7, 6.2, 8.7]
    """
    if num_frames < 1:
        raise ArgumentError(f"num_frames must be at least 1, not {num_frames}")
    choice = _Choice(int(num_frames), indices)
    path = Path(path)
    try:
        if not path.exists():
            raise VideoError(path, Status.NO_SUCH_FILE)
        if path.is_dir():
            details = "a folder; dfdetect.predict takes folders"
            raise VideoError(path, Status.UNREADABLE_FILE, details)
        if not path.is_file():
            raise VideoError(path, Status.UNREADABLE_FILE, "no regular file")
        if path.stat().st_size == 0:
            raise VideoError(path, Status.EMPTY_FILE)
        if not os.access(path, os.R_OK):
            raise VideoError(path, Status.UNREADABLE_FILE, os.strerror(errno.EACCES))
    except OSError as error:
        raise VideoError(path, Status.UNREADABLE_FILE, error.strerror or "") from error
    empty = True
    if path.suffix.lower() in IMAGE_SUFFIXES:
        found = _read_image(path, choice)
    elif HAS_AV:
        found = _read_with_av(path, choice, threads)
    else:
        found = _read_with_opencv(path, choice)
    for frame in found:
        empty = False
        yield frame
    if empty:
        raise VideoError(path, Status.NO_FRAME)


def show_ffmpeg_warnings() -> None:
    """Let FFmpeg print its warnings to standard error."""
    if HAS_AV:
        av.logging.set_level(av.logging.WARNING)


def pick_evenly(times: np.ndarray, count: int) -> np.ndarray:
    """Return the positions of `count` evenly spaced times in a sorted array of times.

    The span from the first time to the last is divided into `count` equal parts. The time nearest
    to the middle of each part is picked. If a time would be picked twice, because of large gaps,
    evenly spaced positions are returned instead.

    Args:
        times: Sorted times of shape (n,), in any unit.
        count: Number of positions, at least 1.

    Returns:
        int64 positions of shape (min(count, n),), in increasing order.

    Example:
        >>> pick_evenly(np.arange(300), 3)
        array([ 50, 149, 249])
    """
    count = min(count, len(times))
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    times = np.asarray(times, dtype=np.float64)  # differences of int64 stamps may overflow
    first, last = times[0], times[-1]
    targets = first + (np.arange(count) + 0.5) / count * (last - first)
    after = np.clip(np.searchsorted(times, targets), 1, max(len(times) - 1, 1))
    before_is_nearer = targets - times[after - 1] <= times[after % len(times)] - targets
    nearest = after - before_is_nearer
    if len(np.unique(nearest)) == count:
        return nearest
    return (2 * np.arange(count) + 1) * len(times) // (2 * count)


@dataclass(frozen=True)
class _Choice:
    """The requested frames: `num_frames` evenly spaced frames, or frames with given numbers."""

    num_frames: int
    indices: Sequence[int] | None

    def pick(self, times: np.ndarray) -> np.ndarray:
        """Return the positions of the requested frames in `times`.

        `times` holds the times of the frames to choose from. Numbers in `indices` beyond the last
        of these frames are ignored.
        """
        if self.indices is None:
            return pick_evenly(times, self.num_frames)
        positions = np.array(self.indices, dtype=np.int64)
        return positions[positions < len(times)]


@dataclass(frozen=True)
class Timeline:
    """The times at which the frames of a video file are shown.

    Attributes:
        stamps: The time stamps of all frames, in order of time, as int64 of shape (frames,). If
            time stamps in the file are missing or occur twice, `stamps` holds the numbers of the
            frames instead.
        timed: True if `stamps` holds time stamps from the file, False if it holds frame numbers.
        unit: Seconds per unit of `stamps`.
        bits_per_pixel: Size of the compressed video stream in bits, divided by the number of pixels
            in all frames of the video. It is NaN if the number of pixels is unknown.
        share: Share of the video's duration that the frames cover. It is below 1 if the file breaks
            off before the end that its header gives.
    """

    stamps: np.ndarray
    timed: bool
    unit: Fraction
    bits_per_pixel: float
    share: float

    @property
    def first(self) -> int:
        """Return the time stamp of the first frame."""
        return int(self.stamps[0]) if len(self.stamps) else 0

    def seconds(self, stamp: int) -> float:
        """Return the seconds from the first frame to the frame with the time stamp `stamp`."""
        return float((stamp - self.first) * self.unit)


@dataclass(frozen=True)
class _Plan:
    """A plan for reading a video: the requested frames, and the frames that the decoder may skip.

    Attributes:
        timeline: The times of all frames of the file.
        stamps: The time stamps that the requested frames have in `timeline`.
        passes: For each pass over the file, the kind of frames that the decoder skips. A second
            pass takes place only if the first pass did not find all requested frames.
    """

    timeline: Timeline
    stamps: deque[int]
    passes: tuple[Skip, ...]


def _image_to_rgb(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """Return a Pillow image as RGB. Pillow would cut grey levels of 16 bits off at 255."""
    if image.mode in ("I", "I;16"):
        image = image.point(lambda level: level / 256).convert("L")
    return image.convert("RGB")


def _read_image(path: Path, choice: _Choice) -> Iterator[Frame]:
    from PIL import Image, ImageOps  # processes that read videos do not need it

    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            fits = image.width * image.height <= MAX_PIXELS
            upright = _image_to_rgb(ImageOps.exif_transpose(image)) if fits else None
    except Image.DecompressionBombError:
        upright = None
    except MemoryError:
        raise
    except Image.UnidentifiedImageError as error:
        raise VideoError(path, Status.UNREADABLE_IMAGE) from error
    except Exception as error:  # Pillow raises many kinds of exceptions for damaged files
        details = getattr(error, "strerror", None) or str(error)
        raise VideoError(path, Status.UNREADABLE_IMAGE, details) from error
    if upright is None:
        raise VideoError(path, Status.NO_FRAME, "too many pixels")
    for number in choice.pick(np.zeros(1)).tolist():
        yield Frame(0.0, np.array(upright), number)


def _read_with_av(path: Path, choice: _Choice, threads: int) -> Iterator[Frame]:
    plan = _plan(path, choice)
    pending = plan.stamps
    share = plan.timeline.share / max(1, len(pending))
    attempts: list[tuple[Skip, int]] = [(skip, threads) for skip in plan.passes]
    if threads != 1:  # at the end of a truncated file, PyAV drops the frames of other threads
        attempts.append(("DEFAULT", 1))
    for skip, threads in attempts:
        if not pending:
            return
        wanted = frozenset(pending) if skip == "NONKEY" else None
        for ordinal, frame in enumerate(_decode(path, skip, threads, wanted)):
            stamp = frame.pts if plan.timeline.timed else ordinal
            if stamp is None or stamp < pending[0]:
                continue
            if stamp > pending[0] and skip == "NONREF":
                break
            # The next frame replaces a damaged one.
            while pending and pending[0] <= stamp:
                pending.popleft()
            number = int(np.searchsorted(plan.timeline.stamps, stamp))
            seconds, bits = plan.timeline.seconds(stamp), plan.timeline.bits_per_pixel
            yield Frame(seconds, _to_rgb(frame), number, bits, 0.0 if frame.is_corrupt else share)
            if not pending:
                return
        if skip == "NONKEY" and len(pending) < choice.num_frames:
            return  # the file is damaged, and decoding all frames of a long video takes too long


def _plan(path: Path, choice: _Choice) -> _Plan:
    with open_container(path) as container:
        if container.metadata.get("comment") == ANNOTATED:
            raise VideoError(path, Status.ANNOTATED_COPY)
        packets, timeline = _list_packets(container, video_stream(container, path))
    order = timeline.stamps
    if not timeline.timed or choice.indices is not None:
        return _Plan(timeline, deque(order[choice.pick(order)].tolist()), ("DEFAULT",))
    # A frame is an I or P frame if it is shown later than all frames that precede it in the file.
    anchors = np.unique(np.maximum.accumulate(packets["stamp"]))
    keys = np.unique(packets["stamp"][packets["key"]])
    enough = SPARE_FRAMES * choice.num_frames
    candidates: np.ndarray
    passes: tuple[Skip, ...]
    if len(order) > LONG_VIDEO and len(keys) >= enough:
        candidates, passes = keys, ("NONKEY", "DEFAULT")
    elif len(order) > len(anchors) >= enough:
        # The decoder may also skip a requested P frame. The second pass then decodes all frames.
        candidates, passes = anchors, ("NONREF", "DEFAULT")
    else:
        candidates, passes = order, ("DEFAULT",)
    return _Plan(timeline, deque(candidates[choice.pick(candidates)].tolist()), passes)


def read_timeline(path: str | Path) -> Timeline:
    """Return the times at which the frames of a video file are shown, without decoding the frames.

    Raises:
        VideoError: The file is not a readable video.
    """
    path = Path(path)
    with open_container(path) as container:
        return _list_packets(container, video_stream(container, path))[1]


def _list_packets(
    container: "av.container.InputContainer", stream: "av.VideoStream"
) -> tuple[np.ndarray, Timeline]:
    """Return the packets and the timeline of a video stream.

    The packets are a structured array in the order of the file. The fields of a packet are `stamp`
    (its time stamp), `duration` (0 if it is unknown), `key` (whether it holds a key frame) and
    `bytes` (its size).
    """
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    packets = np.fromiter(
        (
            (
                NO_STAMP if packet.pts is None else packet.pts,
                packet.duration or 0,
                packet.is_keyframe,
                packet.size,
            )
            for packet in read_packets(container, stream)
            if not packet.is_discard
        ),
        dtype=[("stamp", np.int64), ("duration", np.int64), ("key", bool), ("bytes", np.int64)],
    )
    pixels = len(packets) * stream.width * stream.height
    bits = 8 * float(packets["bytes"].sum()) / pixels if pixels else np.nan
    order = np.unique(packets["stamp"])
    if len(order) < len(packets) or NO_STAMP in order:
        return packets, Timeline(np.arange(len(packets)), False, 1 / rate, bits, 1.0)
    share = _covered(packets, _duration(container, stream))
    return packets, Timeline(order, True, stream.time_base or 1 / rate, bits, share)


def _duration(container: "av.container.InputContainer", stream: "av.VideoStream") -> float:
    """Return the duration of a stream in units of its time stamps, or 0 if it is unknown.

    Matroska, WebM and FLV files give the duration of the whole file only.
    """
    if stream.duration or not container.duration or not stream.time_base:
        return float(stream.duration or 0)
    return float(Fraction(container.duration, av.time_base) / stream.time_base)


def _covered(packets: np.ndarray, duration: float) -> float:
    """Return the share of a duration that the packets cover, or 1 if the duration is 0."""
    if len(packets) == 0 or not duration:
        return 1.0
    starts = packets["stamp"].astype(float)  # sums of int64 stamps may overflow
    span = np.max(starts + packets["duration"]) - np.min(starts)
    return float(np.clip(span / duration, 0, 1))


def open_container(path: Path) -> "av.container.InputContainer":
    """Open a video file, but no other files or addresses to which the video refers.

    Raises:
        VideoError: The file is not a readable video, or opening it needs too much memory.
    """
    name = str(path.absolute())  # otherwise FFmpeg takes a name such as http:x.mp4 for an address
    try:
        try:
            return av.open(name, options=OPEN_OPTIONS)
        except UnicodeDecodeError:  # a title is not UTF-8; PyAV 19 accepts such titles by itself
            return av.open(name, options=OPEN_OPTIONS, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if error.errno == errno.ENOMEM:
            raise VideoError(path, Status.DECODER_OUT_OF_MEMORY) from error
        # FFmpeg's own words for these two errors say nothing to people.
        unknown = isinstance(error, av.InvalidDataError) or error.errno == errno.EINVAL
        details = NO_VIDEO if unknown else error.strerror or ""
        raise VideoError(path, Status.UNREADABLE_VIDEO, details) from error


def video_stream(container: "av.container.InputContainer", path: Path) -> "av.VideoStream":
    """Return the video stream that a player would show.

    Raises:
        VideoError: The file has no video stream other than a cover picture, or FFmpeg has no
            decoder for the stream.
    """
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream):
        raise VideoError(path, Status.NO_VIDEO_STREAM)
    if stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoError(path, Status.NO_VIDEO_STREAM)
    if stream.codec_context is None:
        raise VideoError(path, Status.NO_DECODER)
    return stream


def read_packets(
    container: "av.container.InputContainer", *streams: "av.stream.Stream"
) -> Iterator["av.Packet"]:
    """Yield the non-empty packets of the streams, up to the first unreadable place in the file."""
    try:
        for packet in container.demux(*streams):
            if packet.size:
                yield packet
    except (av.FFmpegError, OSError):
        return


def _decode(
    path: Path, skip_frame: Skip, threads: int, wanted: frozenset[int] | None = None
) -> Iterator["av.VideoFrame"]:
    """Yield the frames that can be decoded, in the order in which they are shown.

    `skip_frame` names the kind of frames that the decoder skips. If `wanted` is given, only packets
    whose time stamps are in `wanted` are decoded.
    """
    with open_container(path) as container:
        stream = video_stream(container, path)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = _count_threads(stream, skip_frame, threads)
        stream.codec_context.skip_frame = skip_frame
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        for packet in read_packets(container, stream):
            if wanted is not None and packet.pts not in wanted:
                continue
            try:
                yield from packet.decode()
            except av.FFmpegError:
                continue
        try:
            yield from stream.codec_context.decode(None)
        except av.FFmpegError:
            return


def _count_threads(stream: "av.VideoStream", skip_frame: Skip, threads: int) -> int:
    """Return how many threads FFmpeg should use, so that `threads` frames are decoded at once.

    The result is smaller if so many threads would exceed `MAX_THREADS` or `THREADS_BYTES`.
    """
    if threads > 1 and skip_frame == "NONREF":
        # FFmpeg's threads take turns to get the next frame. About half of the frames are skipped,
        # so about half of the threads have nothing to decode.
        threads *= 2
    bytes_per_frame = RGB * max(1, stream.width * stream.height)
    return min(threads, MAX_THREADS, max(1, THREADS_BYTES // bytes_per_frame))


def _to_rgb(frame: "av.VideoFrame") -> np.ndarray:
    """Return a frame as an upright RGB image.

    This function copies the pixels fewer times than PyAV's `to_ndarray`.
    """
    plane = frame.reformat(format="rgb24", **ONE_THREAD).planes[0]
    rows = np.asarray(plane).reshape(frame.height, plane.line_size)
    image = rows[:, : RGB * frame.width].reshape(frame.height, frame.width, RGB)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _read_with_opencv(path: Path, choice: _Choice) -> Iterator[Frame]:
    """Yield the requested frames. OpenCV decodes them, and turns them upright."""
    import cv2  # processes that read videos with PyAV do not need it

    if _is_annotated(path):
        raise VideoError(path, Status.ANNOTATED_COPY)
    total = sum(1 for _ in _grab(path))
    wanted = set(choice.pick(np.arange(total)).tolist())
    first = 0.0
    for position, capture in enumerate(_grab(path)):
        time = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if position == 0:
            first = time
        if position in wanted:
            good, image = capture.retrieve()
            if good:
                rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                yield Frame(time - first, rgb, position, share=1 / len(wanted))


def _is_annotated(path: Path) -> bool:
    """Return whether a file holds the comment of annotated copies, which OpenCV does not read."""
    try:
        with path.open("rb") as file:
            return ANNOTATED.encode() in file.read(INDEX_BYTES)
    except OSError as error:
        raise VideoError(path, Status.UNREADABLE_VIDEO, error.strerror or "") from error


@contextmanager
def _only_video_files() -> Iterator[None]:
    """Let the FFmpeg of OpenCV open only what that of PyAV would open."""
    options = "|".join(f"{name};{value}" for name, value in OPEN_OPTIONS.items())
    with _OPENCV:
        before = os.environ.get(OPENCV_OPTIONS)
        os.environ[OPENCV_OPTIONS] = options
        try:
            yield
        finally:
            del os.environ[OPENCV_OPTIONS]
            if before is not None:
                os.environ[OPENCV_OPTIONS] = before


def open_with_opencv(path: Path) -> "cv2.VideoCapture":
    """Open a video with OpenCV. The video cannot make OpenCV open another file or an address."""
    import cv2

    with _only_video_files():
        return cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)


def _grab(path: Path) -> Iterator["cv2.VideoCapture"]:
    capture = open_with_opencv(path)
    try:
        if not capture.isOpened():
            raise VideoError(path, Status.UNREADABLE_VIDEO, NO_VIDEO)
        while capture.grab():
            yield capture
    finally:
        capture.release()
