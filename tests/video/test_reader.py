import os
import struct
import tracemalloc
from io import BytesIO

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from dfdetect.runtime.device import available_cores
from dfdetect.video import reader
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import VideoError, pick_evenly, read_frames


def number_of(frame):
    tens, units = (frame.image[40:56, left : left + 16].mean() / 25 for left in (40, 72))
    return 10 * round(tens) + round(units)


def decode_all(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("count", [1, 4, 16, 32])
def test_read_frames_spaces_frames_evenly(real_clip, count):
    times = [frame.time for frame in read_frames(real_clip, count)]
    length = 64 / 24
    ideal = (np.arange(count) + 0.5) / count * length
    assert len(times) == count
    assert np.abs(np.array(times) - ideal).max() < 0.15


def test_read_frames_changes_no_pixel_when_it_skips_frames(sample_data):
    """x264 lets P frames refer to B frames: a decoder that skips B frames damages P frames."""
    for path in sorted(sample_data.glob("*/*.mp4")):
        everything = decode_all(path)
        for frame in read_frames(path, 4):
            assert np.array_equal(frame.image, everything[round(frame.time * 24)])


def test_read_frames_skips_frames_that_are_not_needed(real_clip, decoded):
    assert len(list(read_frames(real_clip, 4))) == 4
    assert len(decoded) < 40  # of 64


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b_frames.mp4", "libx264", {"bf": "3"}),
        ("no_b_frames.mp4", "libx264", {"bf": "0"}),
        ("many_b_frames.mp4", "libx264", {"bf": "16", "b-adapt": "0"}),
        ("intra_only.avi", "mjpeg", {"pix_fmt": "yuvj420p"}),
        ("mpeg4.avi", "mpeg4", {"bf": "2"}),
        ("mpeg2.mpg", "mpeg2video", {"bf": "2"}),
    ],
)
def test_read_frames_gives_all_frames_of_a_short_clip_in_order(
    write_clip, numbered_frames, name, codec, options
):
    frames = numbered_frames(40)
    path = write_clip(frames, name, codec, **options)
    assert [number_of(frame) for frame in read_frames(path, 40)] == list(range(40))
    assert [number_of(frame) for frame in read_frames(path, 500)] == list(range(40))
    assert len(list(read_frames(path, 7))) == 7


def test_read_frames_of_one_frame(write_clip, numbered_frames):
    (frame,) = read_frames(write_clip(numbered_frames(1)), 32)
    assert frame.time == 0
    assert frame.image.shape == (96, 128, 3)
    assert frame.image.dtype == np.uint8


def test_read_frames_gives_rgb(write_clip):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    (frame,) = read_frames(write_clip([red]), 1)
    assert frame.image[..., 0].mean() > 150
    assert frame.image[..., 1:].mean() < 50


@pytest.mark.parametrize("reader", ["av", "opencv"])
def test_read_frames_turns_rotated_videos_upright(write_clip, reader, monkeypatch):
    top_is_white = np.zeros((64, 128, 3), np.uint8)
    top_is_white[:32] = 255
    path = write_clip([top_is_white] * 10)
    set_rotation(path, degrees=90)
    if reader == "opencv":
        monkeypatch.setattr("dfdetect.video.reader.HAS_AV", False)
    frame = next(read_frames(path, 1))
    assert frame.image.shape == (128, 64, 3)
    # A player turns the picture clockwise: what was at the top is on the right.
    assert frame.image[:, 40:].mean() > 200
    assert frame.image[:, :24].mean() < 50


def set_rotation(path, degrees):
    """Write a clockwise rotation into the display matrix of the MP4 file's only track."""
    assert degrees == 90
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    fixed = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[matrix : matrix + 36] = struct.pack(">9i", *fixed)
    path.write_bytes(data)


def test_read_frames_gives_the_same_frames_with_opencv(real_clip, monkeypatch):
    with_av = list(read_frames(real_clip, 64))
    monkeypatch.setattr("dfdetect.video.reader.HAS_AV", False)
    with_opencv = list(read_frames(real_clip, 64))
    assert len(with_av) == len(with_opencv) == 64
    for first, second in zip(with_av, with_opencv, strict=True):
        assert first.time == pytest.approx(second.time, abs=0.001)
        assert np.abs(first.image.astype(int) - second.image).mean() < 3


def test_read_frames_with_opencv_opens_no_other_file(real_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("dfdetect.video.reader.HAS_AV", False)
    (tmp_path / "good.mp4").write_bytes(real_clip.read_bytes())
    (tmp_path / "bad.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    assert len(list(read_frames(tmp_path / "good.mp4", 2))) == 2
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    with pytest.raises(VideoError, match=r"bad\.mp4: not a readable video"):
        list(read_frames(tmp_path / "bad.mp4", 2))
    assert os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] == "rtsp_transport;tcp"


def test_read_frames_holds_few_frames_in_memory(write_clip):
    path = write_clip([np.full((720, 1280, 3), 8 * number, np.uint8) for number in range(30)])
    tracemalloc.start()
    count = sum(1 for _ in read_frames(path, 30))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30
    assert peak < 5 * 720 * 1280 * 3


@pytest.mark.parametrize("reader", ["av", "opencv"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "the file is empty"), (b"not a video at all\n" * 100, "not a readable video")],
)
def test_read_frames_names_the_unreadable_file_and_the_reason(
    tmp_path, content, reason, reader, monkeypatch
):
    if reader == "opencv":
        monkeypatch.setattr("dfdetect.video.reader.HAS_AV", False)
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as caught:
        list(read_frames(path))
    assert str(path) in str(caught.value)
    assert str(path) not in caught.value.details


def test_read_frames_of_a_missing_file(tmp_path):
    with pytest.raises(VideoError, match="no such file"):
        list(read_frames(tmp_path / "none.mp4"))


def test_read_frames_accepts_titles_that_are_not_utf_8(write_clip, numbered_frames):
    path = write_clip(numbered_frames(5))
    plain = path.read_bytes()
    path.write_bytes(plain.replace(b"Lavf", b"Lav\xe9"))
    assert path.read_bytes() != plain
    assert len(list(read_frames(path, 5))) == 5


def test_read_frames_refuses_sound_without_picture(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no video stream"):
        list(read_frames(path))


def test_read_frames_gives_the_frames_that_a_truncated_clip_still_has(write_clip, numbered_frames):
    path = write_clip(numbered_frames(100), movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    numbers = [number_of(frame) for frame in read_frames(path, 8)]
    assert 4 <= len(numbers) <= 8
    assert numbers == sorted(numbers)
    assert numbers[0] < 10
    assert 30 < numbers[-1] < 65


@pytest.mark.parametrize("count", [3, 100])
def test_read_frames_gives_the_share_of_the_video_that_a_frame_stands_for(
    write_clip, numbered_frames, count, monkeypatch
):
    path = write_clip(numbered_frames(count))
    assert [frame.share for frame in read_frames(path, 8)] == [1 / min(count, 8)] * min(count, 8)
    monkeypatch.setattr(reader, "HAS_AV", False)
    assert [frame.share for frame in read_frames(path, 8)] == [1 / min(count, 8)] * min(count, 8)


@pytest.mark.parametrize(
    ("name", "flags"), [("clip.mp4", "faststart"), ("clip.mkv", ""), ("clip.flv", "")]
)
def test_read_frames_of_a_clip_that_breaks_off_covers_a_share(
    write_clip, numbered_frames, name, flags
):
    path = write_clip(numbered_frames(100), name, movflags=flags)
    assert sum(frame.share for frame in read_frames(path, 8)) == pytest.approx(1, abs=0.02)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = list(read_frames(path, 8))
    assert sum(frame.share for frame in frames) == pytest.approx(0.5, abs=0.15)


def test_read_frames_gives_damaged_frames_no_share(real_clip, tmp_path):
    data = bytearray(real_clip.read_bytes())
    start = data.index(b"mdat") + 20_000
    for place in range(start, data.index(b"moov"), 50):
        data[place] ^= 0x55
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    frames = list(read_frames(path, 16))
    assert len(frames) > 8
    assert sum(frame.share for frame in frames) < 0.5
    with DecoderPool() as decoders:
        shares = [frame.share for frame in decoders.read_frames(path, 16)]
    assert 0.0 in shares


@pytest.fixture
def opened(monkeypatch):
    """Return a list of the containers that are opened during the test."""
    containers, open_container = [], reader.open_container

    def remember(path):
        containers.append(open_container(path))
        return containers[-1]

    monkeypatch.setattr(reader, "open_container", remember)
    return containers


@pytest.mark.parametrize("part", [1.0, 0.6])
@pytest.mark.parametrize("threads", [0, 2, 5])
def test_read_frames_gives_the_same_frames_with_several_threads(
    write_clip, numbered_frames, threads, part
):
    clip = write_clip(numbered_frames(60), "clip.mkv", bf="3")
    clip.write_bytes(clip.read_bytes()[: int(part * clip.stat().st_size)])
    expected = list(read_frames(clip, 8, threads=1))
    for one, other in zip(read_frames(clip, 8, threads=threads), expected, strict=True):
        assert (one.number, one.time) == (other.number, other.time)
        assert np.array_equal(one.image, other.image)


@pytest.mark.parametrize(("threads", "of_ffmpeg"), [(1, 1), (2, 4), (100, 16)])
def test_read_frames_gives_skipped_frames_threads_of_their_own(
    real_clip, threads, of_ffmpeg, opened
):
    frames = read_frames(real_clip, 4, threads=threads)
    next(frames)
    assert opened[-1].streams.video[0].codec_context.thread_count == of_ffmpeg


@pytest.mark.skipif(available_cores() < 2, reason="one core needs one thread anyway")
def test_read_frames_starts_no_threads_to_convert_frames(real_clip):
    process = psutil.Process()
    before = process.num_threads()
    frames = read_frames(real_clip, 4, threads=1)
    next(frames)
    assert process.num_threads() == before


def test_read_frames_bounds_the_memory_of_threads(write_clip, opened, monkeypatch):
    monkeypatch.setattr(reader, "THREADS_BYTES", 2 * 3 * 64 * 48)
    clip = write_clip([np.zeros((48, 64, 3), np.uint8)] * 40, bf="0")
    frames = read_frames(clip, 2, threads=8)
    next(frames)
    assert opened[-1].streams.video[0].codec_context.thread_count == 2


def test_read_frames_refuses_a_clip_that_lost_its_index(write_clip, numbered_frames):
    path = write_clip(numbered_frames(100))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="not a readable video"):
        list(read_frames(path, 8))


def test_read_frames_says_what_to_do_about_a_cut_or_renamed_file(write_clip, numbered_frames):
    path = write_clip(numbered_frames(100))
    cut = path.read_bytes()[: path.stat().st_size // 2]
    picture = BytesIO()
    Image.new("RGB", (64, 64)).save(picture, "JPEG")
    for content in (cut, picture.getvalue()):
        path.write_bytes(content)
        with pytest.raises(VideoError, match=r"\(it may be cut off, or no video: get it again\)$"):
            list(read_frames(path, 8))


def test_read_frames_continues_after_a_damaged_middle(write_clip, numbered_frames):
    path = write_clip(numbered_frames(100), bf="0", g="10")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat")
    middle = start + (len(data) - start) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    times = [frame.time for frame in read_frames(path, 20)]
    assert len(times) >= 10
    assert times == sorted(times)
    assert times[-1] > 3.5


def test_read_frames_refuses_a_count_below_one(real_clip):
    with pytest.raises(ValueError, match="at least 1"):
        next(read_frames(real_clip, 0))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10, 20])
def test_pick_evenly_gives_different_positions(count):
    times = np.array([0, 1, 2, 3, 40, 41, 42, 43, 44, 100])
    picks = pick_evenly(times, count)
    assert len(picks) == min(count, 10)
    assert np.all(np.diff(picks) > 0)
    assert picks.min() >= 0
    assert picks.max() <= 9


def test_pick_evenly_takes_the_nearest_frames():
    assert pick_evenly(np.arange(100), 4).tolist() == [12, 37, 62, 87]
    assert pick_evenly(np.array([0, 9, 10, 11, 20]), 1).tolist() == [2]


def test_pick_evenly_spaces_positions_evenly_if_times_jump():
    times = np.concatenate([np.arange(150), 10_000 + np.arange(150)])
    assert pick_evenly(times, 30).tolist() == list(range(5, 300, 10))


def test_read_frames_decodes_all_if_the_decoder_skips_a_wanted_frame(real_clip, monkeypatch):
    expected = [frame.time for frame in read_frames(real_clip, 4)]
    decode = reader._decode
    passes = []

    def skip_some(path, skip, *arguments):
        passes.append(skip)
        for number, frame in enumerate(decode(path, skip, *arguments)):
            if skip == "DEFAULT" or number < 20:
                yield frame

    monkeypatch.setattr(reader, "_decode", skip_some)
    assert [frame.time for frame in read_frames(real_clip, 4)] == expected
    assert passes == ["NONREF", "DEFAULT"]


@pytest.mark.corpus
@pytest.mark.slow
def test_read_frames_gives_all_frames_of_challenge_clips(corpus):
    for path in sorted((corpus / "videos" / "dfdc").rglob("*.mp4")):
        frames = [(frame.time, frame.image.shape) for frame in read_frames(path, 32)]
        assert len(frames) == 32
        assert {shape for _, shape in frames} == {(1080, 1920, 3)}
        ideal = (np.arange(32) + 0.5) / 32 * 10
        assert np.abs(np.array([time for time, _ in frames]) - ideal).max() < 0.25


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}, {"codec": "mpeg2video"}])
def test_read_frames_by_indices(write_clip, numbered_frames, options):
    path = write_clip(numbered_frames(30), **options)
    wanted = [0, 7, 8, 29, 30, 99]
    frames = list(read_frames(path, indices=wanted))
    assert [number_of(frame) for frame in frames] == [0, 7, 8, 29]
    assert [frame.number for frame in frames] == [0, 7, 8, 29]
    assert [frame.time for frame in frames] == pytest.approx([0, 7 / 25, 8 / 25, 29 / 25])


def test_read_frames_by_indices_with_opencv(write_clip, numbered_frames, monkeypatch):
    monkeypatch.setattr("dfdetect.video.reader.HAS_AV", False)
    frames = read_frames(write_clip(numbered_frames(12)), indices=[3, 11, 40])
    assert [number_of(frame) for frame in frames] == [3, 11]


def test_read_frames_by_indices_beyond_the_end_raises(write_clip, numbered_frames):
    with pytest.raises(VideoError, match="no frame can be decoded"):
        list(read_frames(write_clip(numbered_frames(5)), indices=[20]))


def test_read_frames_accepts_a_numpy_integer(write_clip, numbered_frames):
    frames = list(read_frames(write_clip(numbered_frames(40)), np.int64(8)))
    assert len(frames) == 8


@pytest.mark.parametrize("name", ["face.jpg", "face.JPEG", "face.png", "face.webp"])
def test_read_frames_of_an_image_is_one_upright_frame(tmp_path, name):
    """A camera that is held on its side notes in the EXIF data how to turn the image upright."""
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:20, :30] = (250, 10, 10)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / name, exif=exif, quality=95)
    (frame,) = read_frames(tmp_path / name, 8)
    assert (frame.time, frame.number, frame.image.dtype) == (0.0, 0, np.uint8)
    assert frame.image.shape == upright.shape
    assert np.abs(frame.image[5:15, 5:25].mean(axis=(0, 1)) - (250, 10, 10)).max() < 12
    assert frame.image[25:, 35:].max() < 40


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_read_frames_of_an_image_without_rgb_gives_rgb(tmp_path, mode):
    Image.new("RGB", (30, 20), (102, 102, 102)).convert(mode).save(tmp_path / "face.png")
    (frame,) = read_frames(tmp_path / "face.png")
    assert frame.image.shape == (20, 30, 3)
    assert np.abs(frame.image.astype(int) - 102).max() <= 3


def test_read_frames_of_a_grey_image_of_16_bits_keeps_its_levels(tmp_path):
    levels = np.linspace(0, 65535, 30 * 20).reshape(20, 30).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "face.png")
    (frame,) = read_frames(tmp_path / "face.png")
    assert np.abs(frame.image[..., 0] - levels / 257.0).max() <= 1.5


def test_read_frames_names_the_unreadable_image_and_the_reason(tmp_path, monkeypatch):
    path = tmp_path / "face.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(VideoError, match=r"face.jpg: not a readable image$"):
        list(read_frames(path))
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(VideoError, match=r"face.jpg: not a readable image \(.*truncated"):
        list(read_frames(path))
    Image.fromarray(noise).save(path)
    monkeypatch.setattr(reader, "MAX_PIXELS", 4000)
    with pytest.raises(VideoError, match=r"face.jpg: no frame can be decoded \(too many pixels\)"):
        list(read_frames(path))


def test_read_frames_refuses_other_image_formats(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "face.jpg", format="TIFF")
    with pytest.raises(VideoError, match="not a readable image"):
        list(read_frames(tmp_path / "face.jpg"))


def test_read_frames_gives_a_reason_for_damaged_images(tmp_path):
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    found = set()
    for suffix in (".jpg", ".png", ".webp"):
        path = tmp_path / f"face{suffix}"
        noise.save(path)
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(100):
            changed = data.copy()
            changed[generator.integers(0, len(data), 3)] = generator.integers(0, 256, 3)
            path.write_bytes(changed.tobytes())
            try:
                found.add(len(list(read_frames(path))))
            except VideoError as error:
                found.add(error.status)
    assert {1, "unreadable_image"} <= found <= {1, "unreadable_image", "no_frame"}
