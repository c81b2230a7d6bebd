"""Copy a video file with its sound, and draw on each frame of the copy.

Browsers can play the copy. It is an MP4 file with H.264 video in yuv420p, AAC sound, and the index
of the file at the start. Frames keep their times, even if the times are uneven. Only one frame at a
time is in memory.
"""

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

from dfdetect.errors import DfdetectError
from dfdetect.results import Status
from dfdetect.video.planes import FORMAT, Planes
from dfdetect.video.reader import (
    MAX_PIXELS,
    Timeline,
    VideoError,
    av,
    open_container,
    read_packets,
    read_timeline,
    video_stream,
)

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer, OutputContainer
    from av.video.stream import VideoStream

ENCODER: Final = "libx264"
# With the fastest preset, encoding takes as long as decoding. With the second fastest preset, it
# takes twice as long.
ENCODER_OPTIONS = {"preset": "ultrafast", "crf": "22"}
# Seconds between key frames, which are the frames that players can jump to.
KEY_FRAME_EVERY = 2
MOST_FRAMES_PER_SECOND = 240
CONTAINER_OPTIONS = {"movflags": "faststart"}
# Sampling rates of AAC.
SAMPLING_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
USUAL_SAMPLING_RATE = 48000
COLOUR_TAGS = ("color_range", "color_primaries", "color_trc", "colorspace")
LOGGER = logging.getLogger(__name__)


class Painter(Protocol):
    """An object that draws on each frame of a video.

    Attributes:
        frame_size: Width and height in pixels to which each frame of the original video is resized.
        size: Width and height in pixels of the new video, both even. If `size` is larger than
            `frame_size`, the resized frame fills only the top left corner of the new frame.
    """

    frame_size: tuple[int, int]
    size: tuple[int, int]

    def draw(self, picture: Planes, time: float) -> None:
        """Draw on `picture`, the frame that appears `time` seconds after the first frame."""


# A function that returns the painter for a video. Its arguments are the width and height of the
# upright frames in pixels, and the seconds between the first frame and the last.
MakePainter = Callable[[int, int, float], Painter]


def rewrite_video(
    path: str | Path,
    out: str | Path,
    make_painter: MakePainter,
    threads: int = 0,
    comment: str = "",
) -> None:
    """Write a copy of a video, and draw on each frame of the copy with a `Painter`.

    AAC sound is copied if its packets are allowed in MP4 files. Other sound is encoded as AAC. The
    copy leaves out frames that cannot be decoded, and sound that cannot be read. Rotated videos are
    turned upright. The copy keeps the pixel aspect ratio of the video.

    Args:
        path: Any video file that FFmpeg reads.
        out: The MP4 file to write.
        make_painter: A function that returns the painter. The function gets three arguments: the
            width and the height of the upright frames in pixels, and the seconds between the first
            frame and the last.
        threads: Number of decoding threads, which is also the number of encoding threads. 0 means
            the number of CPU cores.
        comment: Comment in the metadata of the new file.

    Raises:
        VideoError: The video cannot be read.
        DfdetectError: PyAV is missing, or was built without an encoder for H.264.
        OSError: `out` cannot be written.

    Example:
        >>> rewrite_video("video.mov", "video.mp4", lambda width, height, seconds: painter)
    """
    if av is None or ENCODER not in av.codecs_available:
        raise DfdetectError("writing videos needs PyAV with libx264: run `pip install av`")
    path = Path(path)
    timeline = read_timeline(path)
    first = _first_frame(path)
    turned = round(first.rotation / 90) % 2
    width, height = (first.height, first.width) if turned else (first.width, first.height)
    seconds = timeline.seconds(int(timeline.stamps[-1]))
    painter = make_painter(width, height, seconds)
    with (
        open_container(path) as source,
        av.open(str(out), "w", format="mp4", options=CONTAINER_OPTIONS) as target,
    ):
        picture = video_stream(source, path)
        _set_up_decoder(picture, threads)
        sound = _Sound(source, target, timeline)
        video = _add_video(target, picture, first, painter.size, timeline, threads)
        del first
        target.metadata["comment"] = comment
        target.start_encoding()
        for frame, stamp in _frames(source, picture, timeline, sound):
            canvas = Planes.of_size(*painter.size)
            canvas.place(frame, *painter.frame_size)
            painter.draw(canvas, timeline.seconds(stamp))
            canvas.frame.pts = stamp - timeline.first
            canvas.frame.time_base = timeline.unit
            target.mux(video.encode(canvas.frame))
        target.mux(video.encode())
        sound.finish()


def _first_frame(path: Path) -> "av.VideoFrame":
    with open_container(path) as source:
        stream = video_stream(source, path)
        _set_up_decoder(stream, 1)
        for frame in _decode(source, stream):
            return frame
    raise VideoError(path, Status.NO_FRAME)


def _set_up_decoder(stream: "VideoStream", threads: int) -> None:
    stream.thread_type = "AUTO"
    stream.codec_context.thread_count = threads
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}


def _add_video(
    target: "OutputContainer",
    source: "VideoStream",
    first: "av.VideoFrame",
    size: tuple[int, int],
    timeline: Timeline,
    threads: int,
) -> "VideoStream":
    rate = min(source.average_rate or Fraction(25), Fraction(MOST_FRAMES_PER_SECOND))
    stream = target.add_stream(ENCODER, rate=rate, options={**ENCODER_OPTIONS})
    stream.width, stream.height = size
    stream.pix_fmt = FORMAT
    context = stream.codec_context
    context.time_base = timeline.unit
    context.thread_count = threads
    context.gop_size = max(1, round(KEY_FRAME_EVERY * rate))
    shape = source.codec_context.sample_aspect_ratio
    if shape:
        context.sample_aspect_ratio = 1 / shape if round(first.rotation / 90) % 2 else shape
    if not first.format.is_rgb:
        shown = first.reformat(format=FORMAT)
        for tag in COLOUR_TAGS:
            setattr(context, tag, getattr(shown, tag))
    return stream


def _frames(
    source: "InputContainer", stream: "VideoStream", timeline: Timeline, sound: "_Sound"
) -> Iterator[tuple["av.VideoFrame", int]]:
    """Yield each frame with its time stamp, in the order of the time stamps.

    The sound packets that precede a frame in the file are copied to the new video before the frame
    is yielded.
    """
    last = timeline.first - 1
    for ordinal, frame in enumerate(_decode(source, stream, sound)):
        stamp = frame.pts if timeline.timed else ordinal
        if stamp is not None and stamp > last:
            last = stamp
            yield frame, stamp


def _decode(
    source: "InputContainer", stream: "VideoStream", sound: "_Sound | None" = None
) -> Iterator["av.VideoFrame"]:
    """Yield the frames that can be decoded, in the order of their times.

    If `sound` is given, the sound packets that precede a frame in the file are copied to the new
    video before the frame is yielded.
    """
    other = None if sound is None else sound.source
    for packet in read_packets(source, *filter(None, (stream, other))):
        if sound is not None and packet.stream is other:
            sound.add(packet)
            continue
        try:
            yield from packet.decode()
        except av.FFmpegError:
            continue
    try:
        yield from stream.codec_context.decode(None)
    except av.FFmpegError:
        return


class _Sound:
    """Copies the sound of a video to a new file.

    Attributes:
        source: The sound stream that a player would play, or None if the video has no sound that
            FFmpeg can decode.
    """

    def __init__(self, source: "InputContainer", target: "OutputContainer", timeline: Timeline):
        found = cast("AudioStream | None", source.streams.best("audio"))
        self.source = None if found is None or found.codec_context is None else found
        self._target = target
        self._last: int | None = None
        if self.source is None:
            return
        context = self.source.codec_context
        # In broadcasts, each AAC packet has a header. These headers are not allowed in MP4 files.
        # The sound of broadcasts is therefore encoded again.
        self._copied = context.name == "aac" and bool(context.extradata)
        if self._copied:
            self._stream = target.add_stream_from_template(self.source)
        else:
            known = context.rate in SAMPLING_RATES
            self._stream = target.add_stream("aac", context.rate if known else USUAL_SAMPLING_RATE)
            self._stream.layout = "mono" if context.channels == 1 else "stereo"
        self._start = self.source.start_time or 0
        if timeline.timed and self.source.time_base:
            self._start = round(timeline.first * timeline.unit / self.source.time_base)

    def add(self, packet: "av.Packet") -> None:
        """Write a packet of the sound stream to the new file."""
        if self._copied:
            self._copy(packet)
            return
        try:
            frames = cast("list[av.AudioFrame]", packet.decode())
        except av.FFmpegError:  # the packet is damaged
            return
        for frame in frames:
            if frame.pts is not None:
                frame.pts -= self._start
            self._target.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write the sound that is still in the encoder's buffer to the new file."""
        if self.source is not None and not self._copied:
            self._target.mux(self._stream.encode())

    def _copy(self, packet: "av.Packet") -> None:
        if packet.dts is None or packet.pts is None:
            return
        if self._last is not None and packet.dts <= self._last:
            return
        self._last = packet.dts
        packet.pts -= self._start
        packet.dts -= self._start
        packet.stream = self._stream
        self._target.mux(packet)
