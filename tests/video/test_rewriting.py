import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from dfdetect.results import Status
from dfdetect.video.planes import Planes
from dfdetect.video.reader import VideoError, read_frames
from dfdetect.video.rewriting import rewrite_video

WHITE = Planes.colour((255, 255, 255))


class Corner:
    """Draws a white square into the top left corner, and records the times of the frames."""

    def __init__(self, width, height, seconds):
        self.frame_size = width, height
        self.size = width + width % 2, height + height % 2
        self.seconds = seconds
        self.times = []

    def draw(self, picture, time):
        self.times.append(time)
        picture.fill((0, 0, 16, 16), WHITE)


def rewrite(path, tmp_path, **options):
    """Rewrite a video, and return the painter and the path of the new file."""
    painters = []

    def make(*shape):
        painters.append(Corner(*shape))
        return painters[0]

    out = tmp_path / "out.mp4"
    rewrite_video(path, out, make, threads=1, **options)
    return painters[0], out


def times(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def add_sound(video, out, codec, seconds=2.0, rate=44100, delay=0.0):
    """Write a copy of a video with a tone as its sound."""
    with av.open(str(video)) as source, av.open(str(out), "w") as target:
        picture = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream(codec, rate)
        sound.layout = "mono"
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                target.mux(packet)
        wave = (8000 * np.sin(np.arange(int(seconds * rate)) / 20)).astype(np.int16)
        for start in range(0, len(wave), 1000):
            frame = av.AudioFrame.from_ndarray(
                wave[None, start : start + 1000], format="s16", layout="mono"
            )
            frame.sample_rate, frame.pts = rate, start + int(delay * rate)
            frame.time_base = Fraction(1, rate)
            target.mux(sound.encode(frame))
        target.mux(sound.encode())
    return out


def turn(path, degrees):
    """Write a clockwise rotation into the display matrix of the MP4 file's only track."""
    cosine, sine = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    one = 1 << 16
    fixed = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = struct.pack(">9i", *fixed)
    path.write_bytes(data)


def sound_of(path):
    """Return the name of the codec, the duration in seconds, and the bytes of the packets."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return stream.codec_context.name, float(stream.duration * stream.time_base), packets


def test_rewrite_video_writes_a_file_that_browsers_play(write_clip, numbered_frames, tmp_path):
    path = write_clip(numbered_frames(50), "clip.avi", "mpeg4")
    _, out = rewrite(path, tmp_path)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.frames == 50
        assert float(stream.duration * stream.time_base) == pytest.approx(2.0)
    content = out.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_rewrite_video_changes_only_the_pixels_that_are_drawn_on(
    write_clip, numbered_frames, tmp_path
):
    path = write_clip(numbered_frames(50))
    _, out = rewrite(path, tmp_path)
    before, after = (list(read_frames(one, 50)) for one in (path, out))
    assert len(after) == 50
    for one, other in zip(before, after, strict=True):
        assert abs(one.image[32:64, 32:96].astype(int) - other.image[32:64, 32:96]).mean() < 6
        assert other.image[2:14, 2:14].min() > 230


def test_rewrite_video_keeps_uneven_times(write_clip, numbered_frames, tmp_path):
    stamps = [0, 1, 2, 10, 11, 30, 60]
    path = write_clip(numbered_frames(7), "clip.mkv", stamps=stamps)
    painter, out = rewrite(path, tmp_path)
    assert times(out) == pytest.approx([stamp / 25 for stamp in stamps], abs=2e-3)
    assert painter.times == pytest.approx([frame.time for frame in read_frames(path, 7)])
    assert painter.seconds == pytest.approx(60 / 25, abs=2e-3)


def test_rewrite_video_counts_times_from_the_first_frame(write_clip, numbered_frames, tmp_path):
    path = write_clip(numbered_frames(6), "clip.ts", stamps=range(100, 106))
    painter, out = rewrite(path, tmp_path)
    assert painter.times == pytest.approx(np.arange(6) / 25, abs=1e-4)
    assert times(out) == pytest.approx(np.arange(6) / 25, abs=1e-3)


def test_rewrite_video_makes_odd_sides_even(write_clip, numbered_frames, tmp_path):
    path = write_clip(numbered_frames(3, (97, 131)), "odd.mp4", pix_fmt="yuv444p")
    painter, out = rewrite(path, tmp_path)
    assert painter.frame_size == (131, 97)
    assert next(read_frames(out, 1)).image.shape == (98, 132, 3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rewrite_video_turns_videos_upright(write_clip, numbered_frames, tmp_path, degrees):
    path = write_clip(numbered_frames(3))
    turn(path, degrees)
    upright = next(read_frames(path, 1)).image
    painter, out = rewrite(path, tmp_path)
    assert painter.frame_size == upright.shape[1::-1]
    again = next(read_frames(out, 1)).image
    assert abs(upright[20:].astype(int) - again[20:]).mean() < 20
    with av.open(str(out)) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_rewrite_video_copies_aac(write_clip, numbered_frames, tmp_path):
    path = add_sound(write_clip(numbered_frames(50)), tmp_path / "sound.mp4", "aac")
    _, out = rewrite(path, tmp_path)
    assert sound_of(out) == sound_of(path)


@pytest.mark.parametrize(
    ("codec", "name", "rate"),
    [("mp2", "a.ts", 44100), ("pcm_s16le", "a.mkv", 8000), ("libopus", "a.mkv", 48000)],
)
def test_rewrite_video_encodes_other_sound_as_aac(
    write_clip, numbered_frames, tmp_path, codec, name, rate
):
    path = add_sound(write_clip(numbered_frames(50)), tmp_path / name, codec, rate=rate)
    _, out = rewrite(path, tmp_path)
    codec, seconds, _ = sound_of(out)
    assert codec == "aac"
    assert seconds == pytest.approx(2.0, abs=0.3)
    with av.open(str(out)) as container:
        loud = max(abs(frame.to_ndarray()).max() for frame in container.decode(audio=0))
    assert loud > 0.1


def test_rewrite_video_keeps_the_delay_between_picture_and_sound(
    write_clip, numbered_frames, tmp_path
):
    clip = write_clip(numbered_frames(50), stamps=range(25, 75))
    path = add_sound(clip, tmp_path / "late.mkv", "pcm_s16le", delay=1.5)
    _, out = rewrite(path, tmp_path)
    with av.open(str(out)) as container:
        first = next(
            frame.time for frame in container.decode(audio=0) if abs(frame.to_ndarray()).max() > 0.1
        )
    assert times(out)[0] == 0
    assert first == pytest.approx(0.5, abs=0.06)


def test_rewrite_video_keeps_the_start_of_a_truncated_file(write_clip, numbered_frames, tmp_path):
    path = write_clip(numbered_frames(100), "clip.ts")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    _, out = rewrite(path, tmp_path)
    assert 20 < len(times(out)) < 80


def test_rewrite_video_names_a_file_that_is_no_video(write_clip, numbered_frames, tmp_path):
    path = tmp_path / "no.mp4"
    path.write_text("no video")
    with pytest.raises(VideoError, match=r"no\.mp4: not a readable video") as caught:
        rewrite(path, tmp_path)
    assert caught.value.status == Status.UNREADABLE_VIDEO


@pytest.mark.slow
def test_rewrite_video_needs_no_more_memory_for_long_videos(write_clip, tmp_path):
    code = """
import resource, sys
from dfdetect.video.rewriting import rewrite_video
class Nothing:
    def __init__(self, width, height, seconds):
        self.frame_size = self.size = width, height
    def draw(self, picture, time):
        pass
rewrite_video(*sys.argv[1:], Nothing, threads=1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    frames = [np.full((240, 320, 3), 5 * number, np.uint8) for number in range(50)]

    def peak(name, count):
        path = add_sound(
            write_clip(frames * count, name), tmp_path / f"s{name}", "aac", 2.0 * count
        )
        run = subprocess.run(
            [sys.executable, "-c", code, path, tmp_path / "out.mp4"],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(run.stdout)

    # A thousand frames more would take 115 MB.
    assert peak("long.mp4", 22) < peak("short.mp4", 2) + 30


def test_rewrite_video_says_that_it_needs_pyav():
    """Where PyAV is missing, OpenCV reads videos, but nothing can write them."""
    code = """
import sys
sys.modules["av"] = None
from dfdetect.errors import DfdetectError
from dfdetect.video.rewriting import rewrite_video
try:
    rewrite_video("clip.mp4", "out.mp4", None)
except DfdetectError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "writing videos needs PyAV with libx264: run `pip install av`\n"
