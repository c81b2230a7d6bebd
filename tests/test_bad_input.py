"""A catalogue of what folders of videos hold; `detector` sees each, and says what it should."""

import os
import shutil
import socket
import struct
import subprocess
import sys

import av
import cv2
import numpy as np
import psutil
import pytest

from dfdetect import predict
from dfdetect.reasons import REASONS
from dfdetect.submission import check_submission, find_videos
from dfdetect.video import read_frames


@pytest.fixture(scope="module")
def faces(real_clip):
    """16 RGB frames that show one face."""
    return [frame.image for frame in read_frames(real_clip, 16)]


@pytest.fixture(scope="module")
def scorer(detector):
    detector.frames, before = 8, detector.frames
    yield detector
    detector.frames = before


def status_of(scorer, path):
    score = scorer.score(path)
    assert (score.probability is None) == (score.status != "ok")
    assert score.status == "ok" or score.status.startswith(REASONS)
    return score.status


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
def test_files_that_are_no_videos(scorer, tmp_path, real_clip, content, reason):
    shutil.copy(real_clip, tmp_path / "good.mp4")
    (tmp_path / "bad.mp4").write_bytes(content)
    assert status_of(scorer, tmp_path / "bad.mp4").startswith(reason)


def test_a_playlist_makes_no_connection(scorer, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        address = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts".encode()
        (tmp_path / "bad.mp4").write_bytes(PLAYLIST.replace(b"{}", address))
        assert status_of(scorer, tmp_path / "bad.mp4").startswith("not a readable video")
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_name_that_looks_like_an_address_is_a_file(scorer, tmp_path, real_clip, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http:x.mp4", "concat:a|b.mp4", "-i.mp4", "%03d.mp4", "pipe:0"):
        shutil.copy(real_clip, name)
        assert status_of(scorer, name) == "ok"


def test_sound_with_a_cover(scorer, tmp_path, faces):
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


def test_a_video_stream_without_frames(scorer, write_clip):
    for name in ("none.mp4", "none.mkv", "none.avi"):
        path = write_clip([np.zeros((64, 64, 3), np.uint8)], name, "mpeg4", frames_kept=0)
        assert path.stat().st_size > 100
        reason = status_of(scorer, path)
        assert reason.startswith(("no frame", "not a readable video", "the file has no video"))


# Damaged videos


@pytest.fixture(scope="module")
def small_clip(sample_data):
    return (sample_data / "test_videos" / "ehtdtkmmli.mp4").read_bytes()


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999])
def test_truncated(scorer, tmp_path, small_clip, share):
    path = tmp_path / "cut.mp4"
    path.write_bytes(small_clip[: int(share * len(small_clip))])
    status = status_of(scorer, path)
    index_is_there = small_clip.find(b"moov") < share * len(small_clip)
    assert index_is_there or status.startswith("not a readable video")


def test_the_index_is_missing(scorer, tmp_path, small_clip):
    path = tmp_path / "no_moov.mp4"
    path.write_bytes(small_clip.replace(b"moov", b"lost"))
    assert status_of(scorer, path).startswith("not a readable video")


@pytest.mark.parametrize("seed", range(8))
def test_bits_flipped_throughout(scorer, tmp_path, small_clip, seed):
    generator = np.random.default_rng(seed)
    data = np.frombuffer(small_clip, np.uint8).copy()
    places = generator.integers(0, len(data), len(data) // 1000)
    data[places] ^= 1 << generator.integers(0, 8, len(places)).astype(np.uint8)
    (tmp_path / "flipped.mp4").write_bytes(data.tobytes())
    status_of(scorer, tmp_path / "flipped.mp4")


@pytest.mark.parametrize("value", [0, 1, 2**32 - 1])
@pytest.mark.parametrize("box", [b"mvhd", b"tkhd", b"mdhd"])
def test_wrong_duration(scorer, tmp_path, small_clip, box, value):
    data = bytearray(small_clip)
    place = data.index(box) + (24 if box == b"tkhd" else 20)
    data[place : place + 4] = struct.pack(">I", value)
    (tmp_path / "duration.mp4").write_bytes(data)
    assert status_of(scorer, tmp_path / "duration.mp4") == "ok"


@pytest.mark.parametrize("value", [0, 3, 2**31 - 1, 2**32 - 1])
def test_wrong_number_of_frames(scorer, tmp_path, small_clip, value):
    data = bytearray(small_clip)
    place = data.index(b"stsz") + 12
    data[place : place + 4] = struct.pack(">I", value)
    (tmp_path / "count.mp4").write_bytes(data)
    status_of(scorer, tmp_path / "count.mp4")


# Odd but good videos


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("hevc.mp4", "libx265", "yuv420p"),
        ("hevc10.mkv", "libx265", "yuv420p10le"),
        ("vp8.webm", "libvpx", "yuv420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("vp9_alpha.webm", "libvpx-vp9", "yuva420p"),
        ("av1.mp4", "libsvtav1", "yuv420p"),
        ("mpeg4.avi", "mpeg4", "yuv420p"),
        ("mpeg2.mpg", "mpeg2video", "yuv420p"),
        ("ten_bit.mp4", "libx264", "yuv420p10le"),
        ("full_colour.mp4", "libx264", "yuv444p"),
        ("grey.mp4", "libx264", "gray"),
        ("grey12.mkv", "ffv1", "gray12le"),
        ("alpha.mov", "prores_ks", "yuva444p10le"),
        ("alpha.avi", "png", "rgba"),
        ("full_range.mkv", "mjpeg", "yuvj444p"),
        ("transport.ts", "libx264", "yuv420p"),
        ("flash.flv", "flv1", "yuv420p"),
        ("windows.wmv", "wmv2", "yuv420p"),
        ("UPPER.MP4", "libx264", "yuv420p"),
        ("picture.gif", "gif", "rgb8"),
    ],
)
def test_codecs_and_pixels(scorer, write_clip, faces, name, codec, pix_fmt):
    assert status_of(scorer, write_clip(faces, name, codec, pix_fmt=pix_fmt)) == "ok"


def test_interlaced(scorer, write_clip, faces):
    options = {"flags": "+ilme+ildct"}
    assert status_of(scorer, write_clip(faces, "fields.mpg", "mpeg2video", **options)) == "ok"


@pytest.mark.parametrize("rate", [1, 120])
def test_frame_rates(scorer, write_clip, faces, rate):
    path = write_clip(faces, rate=rate)
    score = scorer.score(path)
    assert score.status == "ok"
    assert max(score.faces[0].times) == pytest.approx(14 / rate, rel=0.1)


def test_a_variable_rate_is_sampled_by_time(write_clip, numbered_frames):
    stamps = [*range(20), *range(100, 2000, 100)]
    path = write_clip(numbered_frames(39), stamps=stamps, bf="0")
    times = [25 * frame.time for frame in read_frames(path, 10)]
    assert len(times) == 10
    assert np.abs(times - (np.arange(10) + 0.5) / 10 * 1900).max() <= 60


def test_a_late_start_is_second_zero(scorer, write_clip, faces):
    path = write_clip(faces, "late.ts", stamps=range(90_000, 90_016))
    score = scorer.score(path)
    assert score.status == "ok"
    assert 0 <= score.faces[0].times[0] < 0.2


def test_an_edit_list_hides_frames(write_clip, numbered_frames):
    """MP4's B frames make FFmpeg write one, and it cuts what precedes the stated start."""
    path = write_clip(numbered_frames(50), stamps=range(-10, 40), bf="2")
    assert b"elst" in path.read_bytes()
    shown = list(read_frames(path, 100))
    assert 39 <= len(shown) <= 50
    assert [frame.time for frame in shown] == sorted({frame.time for frame in shown})


@pytest.mark.parametrize("size", [(16, 16), (2, 2), (17, 33), (1, 64), (361, 641), (16, 4000)])
def test_sizes(scorer, write_clip, faces, size):
    height, width = size
    frames = [cv2.resize(frame, (width, height)) for frame in faces[:4]]
    path = write_clip(frames, "size.avi", "ffv1", pix_fmt="bgr0")
    assert status_of(scorer, path) == ("ok" if size == (361, 641) else "no face found")


def test_8k_in_bounded_memory(scorer, write_clip, faces, monkeypatch):
    large = cv2.resize(faces[0], (7680, 4320))
    path = write_clip([large] * 8, "8k.mp4", "mpeg4")
    process, most = psutil.Process(), []
    before = process.memory_info().rss
    find = scorer.finder.find

    def find_and_note(*arguments):
        most.append(process.memory_info().rss - before)
        return find(*arguments)

    monkeypatch.setattr(scorer.finder, "find", find_and_note)
    assert status_of(scorer, path) == "ok"
    assert large.nbytes < max(most) < 900 * 2**20


def test_more_pixels_than_any_camera_has(scorer, write_clip):
    path = write_clip([np.zeros((64, 64, 3), np.uint8)] * 2, "huge.avi", "ffv1", pix_fmt="gray")
    data = path.read_bytes()
    sizes = struct.pack("<ii", 64, 64)
    assert data.count(sizes) >= 1
    path.write_bytes(data.replace(sizes, struct.pack("<ii", 65_000, 65_000)))
    assert status_of(scorer, path).startswith(("no frame", "not a readable", "needs too much"))


def test_two_video_streams(scorer, tmp_path, faces):
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
    assert status_of(scorer, path) == "ok"


def test_a_long_clip_is_sampled_at_key_frames(write_clip, decoded):
    grey = [np.full((32, 32, 3), number % 200, np.uint8) for number in range(3100)]
    path = write_clip(grey, "long.mp4", g="30", bf="2", sc_threshold="0")
    frames = list(read_frames(path, 32))
    ideal = (np.arange(32) + 0.5) / 32 * 3100 / 25
    assert len(frames) == len(decoded) == 32
    assert (
        np.abs(np.array([frame.time for frame in frames]) - ideal).max() < 1.2
    )  # between two key frames
    assert {frame.number % 30 for frame in frames} == {0}
    for frame in frames:
        assert abs(int(frame.image.mean()) - frame.number % 200) <= 4


def test_a_long_clip_of_damaged_key_frames_is_decoded_whole(write_clip, monkeypatch):
    from dfdetect import video

    grey = [np.full((32, 32, 3), 90, np.uint8)] * 3100
    path = write_clip(grey, "long.mp4", g="30", bf="0")
    decode = video._decode

    def no_key_frames(path, skip, *arguments):
        return decode(path, skip, *arguments) if skip != "NONKEY" else iter(())

    monkeypatch.setattr(video, "_decode", no_key_frames)
    assert len(list(read_frames(path, 32))) == 32


# Faces


def test_no_face(scorer, write_clip, numbered_frames):
    assert status_of(scorer, write_clip(numbered_frames(20))) == "no face found"


def test_faces_at_the_border(scorer, write_clip, faces):
    """Half of the face lies outside of the frame."""
    (box,) = scorer.finder.find(faces[:1])[0]
    middle = round((box[0] + box[2]) / 2) // 2 * 2
    score = scorer.score(write_clip([frame[:, :middle] for frame in faces]))
    assert score.status in ("ok", "no face found")
    for face in score.faces:
        assert np.isfinite(face.boxes).all()


def test_thirty_faces(scorer, write_clip, faces):
    small = [cv2.resize(frame, (320, 180)) for frame in faces]
    crowd = [np.vstack([np.hstack([frame] * 6)] * 5) for frame in small]
    score = scorer.score(write_clip(crowd))
    assert score.status == "ok"
    assert len(score.faces) >= 28


def test_a_face_in_one_frame_only(scorer, write_clip, faces):
    empty = np.zeros_like(faces[0])
    status = status_of(scorer, write_clip([empty] * 7 + faces[:1] + [empty] * 8, bf="0"))
    assert status in ("ok", "no face found")
    assert status_of(scorer, write_clip(faces[:1])) == "ok"


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


def test_odd_names_get_their_rows(tmp_path, capsys):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ODD_NAMES:
        (folder / name).write_bytes(b"no video")
    outputs = [tmp_path / name for name in ("s.csv", "d.csv", "r.html")]
    scores = predict(folder, outputs[0], details=outputs[1], report=outputs[2], frames=1)
    check_submission(outputs[0], sorted(ODD_NAMES))
    assert sorted(scores) == sorted(ODD_NAMES)
    printed = capsys.readouterr().out
    assert "\x1b[31m" not in printed
    assert "two\nlines" not in printed
    assert "<script>alert" not in outputs[2].read_text(encoding="utf-8")


def test_a_file_without_a_suffix_is_taken_if_given(scorer, real_clip, tmp_path):
    path = tmp_path / "clip"
    shutil.copy(real_clip, path)
    assert status_of(scorer, path) == "ok"
    assert list(find_videos([path])) == ["clip"]
    with pytest.raises(ValueError, match="no videos in"):
        find_videos([tmp_path])


def test_links_loops_and_folders(scorer, real_clip, tmp_path):
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


def test_what_may_not_be_read_is_said(real_clip, tmp_path):
    """By a process without root's rights, where the tests run as root."""
    folder = tmp_path / "videos"
    (folder / "closed").mkdir(parents=True)
    shutil.copy(real_clip, folder / "open.mp4")
    shutil.copy(real_clip, folder / "secret.mp4")
    shutil.copy(real_clip, folder / "closed" / "x.mp4")
    (folder / "secret.mp4").chmod(0)
    (folder / "closed").chmod(0)
    code = (
        "import os, sys; from dfdetect.submission import find_videos; "
        "from dfdetect.video import read_frames, VideoError\n"
        # All that is imported on the way: the environment may lie where only root may look.
        "list(read_frames(sys.argv[2], 1))\n"
        "if os.getuid() == 0: os.setgroups([]); os.setuid(65534)\n"
        "for path in find_videos([sys.argv[1]]).values():\n"
        "    try: print(path.name, len(list(read_frames(path, 1))))\n"
        "    except VideoError as error: print(error.path.name, error.reason)\n"
    )
    for parent in tmp_path.parents[:3]:
        if parent.owner() == tmp_path.owner() and parent.name.startswith("pytest"):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    run = subprocess.run(
        [sys.executable, "-c", code, folder, real_clip], capture_output=True, text=True, check=False
    )
    (folder / "closed").chmod(0o755)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        "open.mp4 1",
        "secret.mp4 not a readable video (Permission denied)",
    ]
    assert f"{folder / 'closed'}: cannot be searched (Permission denied)" in run.stderr


def test_a_file_that_vanishes(scorer, real_clip, tmp_path, monkeypatch):
    from dfdetect import video

    path = tmp_path / "vanishing.mp4"
    shutil.copy(real_clip, path)
    plan = video._plan

    def plan_and_remove(path, count):
        found = plan(path, count)
        path.unlink()
        return found

    monkeypatch.setattr(video, "_plan", plan_and_remove)
    with pytest.raises(video.VideoError, match="No such file"):
        list(read_frames(path, 4))


def test_a_file_that_grows(write_clip, numbered_frames, monkeypatch):
    from dfdetect import video

    path = write_clip(numbered_frames(90), "growing.ts", g="10", bf="0")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    plan = video._plan

    def plan_and_grow(path, count):
        found = plan(path, count)
        path.write_bytes(whole)
        return found

    monkeypatch.setattr(video, "_plan", plan_and_grow)
    frames = list(read_frames(path, 8))
    assert len(frames) == 8
    assert frames[-1].time < 2.2


def test_a_stamp_at_either_end_of_time(write_clip, numbered_frames):
    stamps = [0, 1, 2, 2**62]
    path = write_clip(numbered_frames(4), "far.nut", "ffv1", pix_fmt="bgr0", stamps=stamps)
    times = [frame.time for frame in read_frames(path, 4)]
    assert len(times) == 4
    assert times == sorted(times)
