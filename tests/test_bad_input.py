"""Tests with files that a folder of videos may hold: each gets the right score or status."""

import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import psutil
import pytest

from dfdetect import load_detector, predict
from dfdetect.kaggle.submission import check_submission
from dfdetect.results import Status
from dfdetect.video.discovery import find_videos
from dfdetect.video.isolated import DecoderPool
from dfdetect.video.reader import MAX_PIXELS, pick_evenly, read_frames


@pytest.fixture(scope="module")
def faces(real_clip):
    """Return 16 RGB frames that show one face."""
    return [frame.image for frame in read_frames(real_clip, 16)]


@pytest.fixture(scope="module")
def scorer():
    """Return a detector with the usual face detector and a fast classifier."""
    return load_detector("logistic_regression", device="cpu", frames=8)


def status_of(scorer, path):
    score = scorer.predict(path)
    assert (score.probability is None) == (score.status != "ok")
    assert score.status != Status.FAILED
    return score.message


# Files that are no videos


def png_bytes():
    return cv2.imencode(".png", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"\0", "not a readable video"),
        (b"a text\n" * 999, "not a readable video"),
        (bytes(100_000), "not a readable video"),
        (png_bytes(), "not a readable video"),
        (b"PK\3\4" + bytes(200), "not a readable video"),
        (b"ffconcat version 1.0\nfile good.mp4\n", "not a readable video"),
        (PLAYLIST.replace(b"{}", b"good.mp4"), "not a readable video"),
        (b"<?xml version='1.0'?><MPD><BaseURL>good.mp4</BaseURL></MPD>", "not a readable video"),
    ],
    ids="empty byte text zeros png zip concat playlist dash".split(),
)
def test_predict_of_files_that_are_no_videos(scorer, tmp_path, real_clip, content, reason):
    shutil.copy(real_clip, tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(content)
    assert status_of(scorer, tmp_path / "bad.mp4").startswith(reason)


def test_predict_of_a_playlist_opens_no_other_file(scorer, tmp_path, write_clip, faces):
    assert status_of(scorer, write_clip(faces, "good.ts")) == "ok"
    (tmp_path / "bad.m3u8").write_bytes(PLAYLIST.replace(b"{}", b"good.ts"))
    assert status_of(scorer, tmp_path / "bad.m3u8").startswith("not a readable video")


def test_predict_of_a_playlist_makes_no_connection(scorer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts".encode()
        for name in ("bad.mp4", "bad.m3u8"):  # FFmpeg knows playlists by the second name
            (tmp_path / name).write_bytes(PLAYLIST.replace(b"{}", address))
            assert status_of(scorer, tmp_path / name).startswith("not a readable video")
        with pytest.raises(TimeoutError):
            server.accept()


def test_predict_of_a_name_that_looks_like_a_url(scorer, tmp_path, real_clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:x.mp4", "concat:a|b.mp4", "-i.mp4", "%03d.mp4", "pipe:0"):
        shutil.copy(real_clip, name)
        assert status_of(scorer, name) == "ok"
        assert len(list(read_frames(name, 2))) == 2


def test_predict_of_sound_with_a_cover_picture(scorer, tmp_path, faces):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.pix_fmt, (cover.height, cover.width) = "yuvj420p", faces[0].shape[:2]
        cover.disposition = av.stream.Disposition.attached_pic
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(faces[0], format="rgb24")))
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    assert status_of(scorer, path) == "the file has no video stream"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.mp4", "the file has no video stream"),  # the index lists only streams with frames
        ("none.mkv", "not a readable video"),  # the file ends before the first frame
        ("none.avi", "no frame can be decoded"),
    ],
)
def test_predict_of_a_video_stream_without_frames(scorer, write_clip, name, reason):
    path = write_clip([np.zeros((64, 64, 3), np.uint8)], name, "mpeg4", frames_kept=0)
    assert path.stat().st_size > 100
    assert status_of(scorer, path).startswith(reason)


# Damaged videos


@pytest.fixture(scope="module")
def small_clip(sample_data):
    return (sample_data / "test_videos" / "ehtdtkmmli.mp4").read_bytes()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
def test_predict_of_a_truncated_file(scorer, tmp_path, small_clip, share):
    """The index at the end of the file is lost or incomplete."""
    assert small_clip.find(b"moov") > 0.99 * len(small_clip)
    path = tmp_path / "cut.mp4"
    path.write_bytes(small_clip[: int(share * len(small_clip))])
    assert status_of(scorer, path).startswith("not a readable video")


@pytest.mark.parametrize(("share", "status"), [(0.1, "no frame can be decoded"), (0.7, "ok")])
def test_predict_of_a_file_truncated_after_its_index(scorer, write_clip, faces, share, status):
    """All remaining frames are read."""
    path = write_clip(faces, movflags="faststart")
    whole = path.read_bytes()
    assert whole.find(b"moov") < 0.1 * len(whole)
    path.write_bytes(whole[: int(share * len(whole))])
    with av.open(str(path)) as container:
        left = sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux())
    assert 5 < left < 16 if status == "ok" else left == 0
    assert status_of(scorer, path) == status
    for threads in (1, 2) if left else ():
        assert len(list(read_frames(path, 16, threads=threads))) == left


def test_predict_of_a_file_without_an_index(scorer, tmp_path, small_clip):
    path = tmp_path / "no_moov.mp4"
    path.write_bytes(small_clip.replace(b"moov", b"lost"))
    assert status_of(scorer, path).startswith("not a readable video")


@pytest.mark.parametrize("seed", range(8))
def test_predict_of_a_file_with_flipped_bits(scorer, tmp_path, small_clip, seed):
    path = tmp_path / "flipped.mp4"
    path.write_bytes(small_clip)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    start, end = packets[1].pos, packets[-1].pos + packets[-1].size
    generator = np.random.default_rng(seed)
    data = np.frombuffer(small_clip, np.uint8).copy()
    flipped = generator.integers(start, end, (end - start) // 1000)
    data[flipped] ^= 1 << generator.integers(0, 8, len(flipped)).astype(np.uint8)
    path.write_bytes(data.tobytes())
    assert status_of(scorer, path) == "ok"
    assert len(list(read_frames(path, 8, threads=1))) == 8


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("box", [b"mvhd", b"tkhd", b"mdhd"])
def test_predict_of_a_file_with_a_wrong_duration(scorer, tmp_path, small_clip, box, value):
    data = bytearray(small_clip)
    place = data.index(box) + (24 if box == b"tkhd" else 20)
    data[place : place + 4] = struct.pack(">I", value)
    (tmp_path / "duration.mp4").write_bytes(data)
    assert status_of(scorer, tmp_path / "duration.mp4") == "ok"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        (0, "no frame can be decoded"),
        (3, "ok"),
        (2**31 - 1, "not a readable video"),
        (2**32 - 1, "not a readable video"),
    ],
)
def test_predict_of_a_file_with_a_wrong_number_of_frames(
    scorer, tmp_path, small_clip, value, status
):
    data = bytearray(small_clip)
    place = data.index(b"stsz") + 12
    data[place : place + 4] = struct.pack(">I", value)
    (tmp_path / "count.mp4").write_bytes(data)
    assert status_of(scorer, tmp_path / "count.mp4").startswith(status)
    if status == "ok":
        assert len(list(read_frames(tmp_path / "count.mp4", 8))) == value


# Odd but good videos


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("hevc.mp4", "libx265", "yuv420p"),
        pytest.param("hevc10.mkv", "libx265", "yuv420p10le", marks=pytest.mark.slow),
        ("vp8.webm", "libvpx", "yuv420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        pytest.param("vp9_alpha.webm", "libvpx-vp9", "yuva420p", marks=pytest.mark.slow),
        ("av1.mp4", "libsvtav1", "yuv420p"),
        ("mpeg4.avi", "mpeg4", "yuv420p"),
        ("mpeg2.mpg", "mpeg2video", "yuv420p"),
        ("ten_bit.mp4", "libx264", "yuv420p10le"),
        pytest.param("full_colour.mp4", "libx264", "yuv444p", marks=pytest.mark.slow),
        ("grey.mp4", "libx264", "gray"),
        pytest.param("grey12.mkv", "ffv1", "gray12le", marks=pytest.mark.slow),
        pytest.param("alpha.mov", "prores_ks", "yuva444p10le", marks=pytest.mark.slow),
        pytest.param("alpha.avi", "png", "rgba", marks=pytest.mark.slow),
        pytest.param("full_range.mkv", "mjpeg", "yuvj444p", marks=pytest.mark.slow),
        pytest.param("transport.ts", "libx264", "yuv420p", marks=pytest.mark.slow),
        pytest.param("flash.flv", "flv1", "yuv420p", marks=pytest.mark.slow),
        ("windows.wmv", "wmv2", "yuv420p"),
        pytest.param("UPPER.MP4", "libx264", "yuv420p", marks=pytest.mark.slow),
        ("picture.gif", "gif", "rgb8"),
    ],
)
def test_predict_of_codecs_and_pixel_formats(scorer, write_clip, faces, name, codec, pix_fmt):
    assert status_of(scorer, write_clip(faces[:8], name, codec, pix_fmt=pix_fmt)) == "ok"


def test_predict_of_interlaced_video(scorer, write_clip, faces):
    options = {"flags": "+ilme+ildct"}
    assert status_of(scorer, write_clip(faces, "fields.mpg", "mpeg2video", **options)) == "ok"


@pytest.mark.parametrize("rate", [1, 120])
def test_predict_of_low_and_high_frame_rates(scorer, write_clip, faces, rate):
    path = write_clip(faces, rate=rate)
    score = scorer.predict(path)
    assert score.status == "ok"
    assert max(score.tracks[0].times) == pytest.approx(14 / rate, rel=0.1)


def test_read_frames_samples_a_variable_rate_by_time(write_clip, numbered_frames):
    stamps = [*range(20), *range(100, 2000, 100)]
    path = write_clip(numbered_frames(39), stamps=stamps, bf="0")
    times = [25 * frame.time for frame in read_frames(path, 10)]
    assert len(times) == 10
    assert np.abs(times - (np.arange(10) + 0.5) / 10 * 1900).max() <= 60


def test_predict_counts_seconds_from_a_late_first_frame(scorer, write_clip, faces):
    path = write_clip(faces, "late.ts", stamps=range(90_000, 90_016))
    score = scorer.predict(path)
    assert score.status == "ok"
    assert 0 <= score.tracks[0].times[0] < 0.2


def test_read_frames_skips_frames_before_an_edit_list(write_clip):
    """FFmpeg writes an edit list for B frames, which hides the frames before the start."""
    grey = [np.full((32, 32, 3), 4 * number, np.uint8) for number in range(50)]
    path = write_clip(grey, stamps=range(-10, 40), bf="2")
    assert b"elst" in path.read_bytes()
    shown = list(read_frames(path, 100))
    assert [round(frame.image.mean() / 4) for frame in shown] == list(range(10, 50))
    assert [round(25 * frame.time) for frame in shown] == list(range(40))


@pytest.mark.parametrize("size", [(16, 16), (2, 2), (17, 33), (1, 64), (361, 641), (16, 4000)])
def test_predict_of_odd_frame_sizes(scorer, write_clip, faces, size):
    height, width = size
    frames = [cv2.resize(frame, (width, height)) for frame in faces[:4]]
    path = write_clip(frames, "size.avi", "ffv1", pix_fmt="bgr0")
    assert status_of(scorer, path) == ("ok" if size == (361, 641) else "no face found")


@pytest.mark.slow
def test_predict_of_8k_video_takes_bounded_memory(scorer, write_clip, faces, monkeypatch):
    large = cv2.resize(faces[0], (7680, 4320))
    path = write_clip([large] * 8, "8k.mp4", "mpeg4")
    process, most = psutil.Process(), []
    before = process.memory_info().rss
    find = scorer.face_detector.detect

    def find_and_note(*arguments):
        most.append(process.memory_info().rss - before)
        return find(*arguments)

    monkeypatch.setattr(scorer.face_detector, "detect", find_and_note)
    assert status_of(scorer, path) == "ok"
    assert large.nbytes < max(most) < 900 * 2**20


def clip_of_side(write_clip, side):
    return write_clip(
        [np.zeros((side, side, 3), np.uint8)], "large.avi", "mjpeg", pix_fmt="yuvj420p"
    )


@pytest.mark.slow
def test_read_frames_of_the_most_pixels_allowed(write_clip):
    with DecoderPool(threads=1) as decoders:
        (frame,) = decoders.read_frames(clip_of_side(write_clip, 8192), 1)
    assert frame.image.shape == (8192, 8192, 3)
    assert MAX_PIXELS == 8192**2


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_predict_of_too_many_pixels_takes_no_memory(scorer, write_clip):
    """The decoder never allocates the memory of such a frame."""
    path = clip_of_side(write_clip, 8194)
    with DecoderPool() as decoders:
        assert status_of(scorer.replica(scorer.device, decoders), path) == "no frame can be decoded"
        (idle,) = decoders.idle
        account = Path(f"/proc/{idle.process.pid}/status").read_text()
    assert 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", account)[1]) < 3 * MAX_PIXELS


def test_predict_of_a_header_that_claims_too_many_pixels(scorer, write_clip):
    path = write_clip([np.zeros((64, 64, 3), np.uint8)] * 2, "huge.avi", "ffv1", pix_fmt="gray")
    data, sizes = path.read_bytes(), struct.pack("<ii", 64, 64)
    assert data.count(sizes) >= 1
    path.write_bytes(data.replace(sizes, struct.pack("<ii", 65_000, 65_000)))
    assert status_of(scorer, path) == "no frame can be decoded"


def test_predict_of_two_video_streams_uses_the_larger(scorer, tmp_path, faces):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream, scale in zip(streams, (1, 4), strict=True):
            stream.height, stream.width = (side // scale for side in faces[0].shape[:2])
            stream.pix_fmt = "yuv420p"
        for image in faces:
            for stream in streams:
                small = cv2.resize(image, (stream.width, stream.height))
                container.mux(stream.encode(av.VideoFrame.from_ndarray(small, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    score = scorer.predict(path)
    assert score.status == "ok"
    ((_, top, _, bottom),) = scorer.face_detector.detect(faces[:1])[0]
    heights = [box[3] - box[1] for box in score.tracks[0].boxes]
    assert heights == pytest.approx([bottom - top] * 8, rel=0.2)  # those in the larger stream


@pytest.mark.slow
def test_read_frames_of_a_long_video_decodes_key_frames(write_clip, decoded):
    grey = [np.full((32, 32, 3), number % 200, np.uint8) for number in range(3100)]
    path = write_clip(grey, "long.mp4", g="30", bf="2", sc_threshold="0")
    frames = list(read_frames(path, 32))
    ideal = (np.arange(32) + 0.5) / 32 * 3100 / 25
    assert len(frames) == len(decoded) == 32
    assert (
        np.abs(np.array([frame.time for frame in frames]) - ideal).max() < 1.2
    )  # key frames are 1.2 s apart
    assert {frame.number % 30 for frame in frames} == {0}
    for frame in frames:
        assert abs(int(frame.image.mean()) - frame.number % 200) <= 4


@pytest.mark.slow
def test_read_frames_of_damaged_key_frames_decodes_all_frames(write_clip, monkeypatch):
    from dfdetect.video import reader

    grey = [np.full((32, 32, 3), 90, np.uint8)] * 3100
    path = write_clip(grey, "long.mp4", g="30", bf="0")
    decode = reader._decode

    def no_key_frames(path, skip, *arguments):
        return decode(path, skip, *arguments) if skip != "NONKEY" else iter(())

    monkeypatch.setattr(reader, "_decode", no_key_frames)
    assert len(list(read_frames(path, 32))) == 32


# Faces


def test_predict_of_a_video_without_faces(scorer, write_clip, numbered_frames):
    assert status_of(scorer, write_clip(numbered_frames(20))) == "no face found"


EDGES = ("left", "top", "right", "bottom")


def cut_through(box, edge, share, frames, write_clip):
    """Return a video of frames without a share of the face, and the part of a frame that is left.

    The video is lossless, because x264 does not encode narrow frames the same way each time.
    """
    number, (height, width) = EDGES.index(edge), frames[0].shape[:2]
    inwards = share * (box[number % 2 + 2] - box[number % 2]) * (1 if number < 2 else -1)
    part = [0, 0, width, height]
    part[number] = round(box[number] + inwards)
    left, top, right, bottom = part
    cut = [frame[top:bottom, left:right] for frame in frames]
    return write_clip(cut, "cut.avi", "ffv1", pix_fmt="bgr0"), part


@pytest.mark.parametrize("edge", EDGES)
def test_predict_of_faces_at_the_border(scorer, write_clip, faces, edge):
    """A fifth of the face is outside of the frame, and the boxes extend beyond the border."""
    (whole,) = scorer.face_detector.detect(faces[:1])[0]
    path, part = cut_through(whole, edge, 0.2, faces[:1] * 8, write_clip)  # the face keeps still
    score = scorer.predict(path)
    assert score.status == "ok"
    (face,) = score.tracks
    assert len(face.boxes) == 8
    for box in face.boxes:
        left, top, right, bottom = np.add(box, [*part[:2], *part[:2]])
        assert left < (whole[0] + whole[2]) / 2 < right
        assert top < (whole[1] + whole[3]) / 2 < bottom
        beyond = left < part[0], top < part[1], right > part[2], bottom > part[3]
        assert beyond[EDGES.index(edge)]


@pytest.mark.parametrize("edge", EDGES)
def test_predict_of_a_quarter_of_a_face_finds_none(scorer, write_clip, faces, edge):
    (whole,) = scorer.face_detector.detect(faces[:1])[0]
    path, _ = cut_through(whole, edge, 0.75, faces, write_clip)
    assert status_of(scorer, path) == "no face found"


@pytest.mark.slow
def test_predict_of_thirty_faces(scorer, write_clip, faces):
    small = [cv2.resize(frame, (320, 180)) for frame in faces]
    crowd = [np.vstack([np.hstack([frame] * 6)] * 5) for frame in small]
    score = scorer.predict(write_clip(crowd))
    assert score.status == "ok"
    assert len(score.tracks) >= 28


@pytest.mark.parametrize(
    ("number", "found"), [(1, True), (7, False), (8, True), (10, False), (14, True)]
)
def test_predict_of_a_face_in_one_frame(scorer, write_clip, faces, number, found):
    """Of the frames 1, 3, 5, 7, 8, 10, 12 and 14, every second one and the last are searched."""
    frames = [np.zeros_like(faces[0])] * 16
    frames[number] = faces[0]
    path = write_clip(frames, bf="0")
    assert [frame.number for frame in read_frames(path, 8) if frame.image.max() > 50] == [number]
    score = scorer.predict(path)
    assert score.status == ("ok" if found else "no_face")
    assert [face.times for face in score.tracks] == ([[number / 25]] if found else [])


def test_predict_of_a_video_of_one_frame(scorer, write_clip, faces):
    score = scorer.predict(write_clip(faces[:1]))
    assert score.status == "ok"
    assert [face.times for face in score.tracks] == [[0.0]]


# Names and folders

ODD_NAMES = [
    "a b.mp4",
    'it\'s "quoted".mp4',
    "two\nlines.mp4",
    "tab\tand\rreturn.mp4",
    "лицо 顔 🎭.mp4",
    "=1+1.mp4",
    "@x,y.mp4",
    "<script>alert(1)<script>.mp4",
    "\x1b[31mred.mp4",
    os.fsdecode(b"not utf-8 \xff.mp4"),
    "." * 30 + ".mp4",
    "x" * 250 + ".mp4",
]


def test_predict_writes_rows_of_odd_names(tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / name).write_bytes(b"no video")
    outputs = [tmp_path / name for name in ("s.csv", "d.csv", "r.html")]
    scores = predict(folder, out=outputs[0], details=outputs[1], report=outputs[2], frames=1)
    check_submission(outputs[0], sorted(ODD_NAMES))
    assert sorted(scores) == sorted(ODD_NAMES)
    for score in scores.values():
        assert score.status == Status.UNREADABLE_VIDEO
    printed = capsys.readouterr().out
    assert "\x1b[31m" not in printed
    assert "two\nlines" not in printed
    assert "<script>alert" not in outputs[2].read_text(encoding="utf-8")


def test_find_videos_takes_a_given_file_without_a_suffix(scorer, real_clip, tmp_path):
    path = tmp_path / "clip"
    shutil.copy(real_clip, path)
    assert status_of(scorer, path) == "ok"
    assert list(find_videos([path])) == ["clip"]
    with pytest.raises(ValueError, match="no videos in"):
        find_videos([tmp_path])


def test_find_videos_in_links_loops_and_folders(scorer, real_clip, tmp_path):
    folder = tmp_path / "videos"
    (folder / "folder.mp4").mkdir(parents=True)
    shutil.copy(real_clip, folder / "folder.mp4" / "inside.mp4")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(real_clip, elsewhere / "linked_folder.mp4")
    (folder / "elsewhere").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "self.mp4").symlink_to(folder / "self.mp4")
    (folder / "nowhere.mp4").symlink_to(tmp_path / "gone")
    (folder / "linked.mp4").symlink_to(real_clip)
    os.mkfifo(folder / "pipe.mp4")
    found = find_videos([folder])
    assert {name: status_of(scorer, path) for name, path in found.items()} == {
        "inside.mp4": "ok",
        "linked_folder.mp4": "ok",
        "self.mp4": "no such file",
        "nowhere.mp4": "no such file",
        "linked.mp4": "ok",
        "pipe.mp4": "not a readable file (no regular file)",
    }


def test_find_videos_names_files_without_permission(real_clip, tmp_path):
    """If the tests run as root, a process without root's permissions looks for the files."""
    folder = tmp_path / "videos"
    (folder / "closed").mkdir(parents=True)
    shutil.copy(real_clip, folder / "open.mp4")
    shutil.copy(real_clip, folder / "secret.mp4")
    shutil.copy(real_clip, folder / "closed" / "x.mp4")
    (folder / "secret.mp4").chmod(0)
    (folder / "closed").chmod(0)
    code = (
        "import os, sys; from dfdetect.video.discovery import find_videos; "
        "from dfdetect.video.reader import read_frames, VideoError\n"
        # This call imports all modules before the process loses root's permissions.
        "list(read_frames(sys.argv[2], 1))\n"
        "if os.getuid() == 0: os.setgroups([]); os.setuid(65534)\n"
        "for path in find_videos([sys.argv[1]]).values():\n"
        "    try: print(path.name, len(list(read_frames(path, 1))))\n"
        "    except VideoError as error:\n"
        "        print(error.path.name, error.status.describe(error.details))\n"
    )
    for parent in tmp_path.parents[:3]:
        if parent.owner() == tmp_path.owner() and parent.name.startswith(("pytest", "popen")):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", code, folder, real_clip], capture_output=True, text=True, check=False
    )
    (folder / "closed").chmod(0o755)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "open.mp4 1",
        "secret.mp4 not a readable file (Permission denied)",
    ]
    assert f"{folder / 'closed'}: cannot be searched (Permission denied)" in run.stderr


def test_read_frames_of_a_file_that_vanishes(scorer, real_clip, tmp_path, monkeypatch):
    from dfdetect.video import reader

    path = tmp_path / "vanishing.mp4"
    shutil.copy(real_clip, path)
    plan = reader._plan

    def plan_and_remove(path, count):
        found = plan(path, count)
        path.unlink()
        return found

    monkeypatch.setattr(reader, "_plan", plan_and_remove)
    with pytest.raises(reader.VideoError, match="No such file"):
        list(read_frames(path, 4))


def test_read_frames_of_a_file_that_grows(write_clip, numbered_frames, monkeypatch):
    from dfdetect.video import reader

    path = write_clip(numbered_frames(90), "growing.ts", g="10", bf="0")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    plan = reader._plan

    def plan_and_grow(path, count):
        found = plan(path, count)
        path.write_bytes(whole)
        return found

    monkeypatch.setattr(reader, "_plan", plan_and_grow)
    frames = list(read_frames(path, 8))
    assert len(frames) == 8
    assert frames[-1].time < 2.2


def test_read_frames_of_a_huge_time_stamp(write_clip, numbered_frames):
    stamps = [0, 1, 2, 2**51 - 1]  # which the file counts in 51,200ths of a second
    path = write_clip(numbered_frames(4), "far.nut", "ffv1", pix_fmt="bgr0", stamps=stamps)
    with av.open(str(path)) as container:
        assert max(packet.pts for packet in container.demux() if packet.size) > 2**61
    times = [frame.time for frame in read_frames(path, 4)]
    assert times == pytest.approx([0, 1 / 25, 2 / 25, (2**51 - 1) / 25])
    assert [frame.time for frame in read_frames(path, 1)] == times[2:3]


def test_pick_evenly_of_extreme_time_stamps():
    """The difference of the time stamps does not fit into an int64."""
    end = 2**63 - 1
    assert pick_evenly(np.array([-end, 0, end - 2, end - 1, end]), 1).tolist() == [1]
